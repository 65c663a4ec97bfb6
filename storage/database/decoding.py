"""Errors for stored values that cannot be decoded."""

import contextlib
import zlib
from collections.abc import Iterator

from storage.errors import StorageError

from .url import printable

_MAX_REASON_LENGTH = 200


UNDECODABLE = (ValueError, TypeError, RecursionError, zlib.error)
"""What decoding a damaged value raises."""


def undecodable(what: str, error: Exception) -> StorageError:
    """Return the error for a stored value, `what`, that cannot be decoded."""
    reason = " ".join(printable(str(error)).split())[:_MAX_REASON_LENGTH]
    return StorageError(
        f"{what} cannot be read from the database: {reason}; restore the database from a backup"
    )


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Raise a StorageError that names `what` if the body fails to decode a stored value."""
    try:
        yield
    except UNDECODABLE as error:
        raise undecodable(what, error) from None
