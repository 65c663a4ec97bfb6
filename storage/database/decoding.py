"""Errors for stored values that cannot be decoded."""

import contextlib
import zlib
from collections.abc import Iterator

from storage.errors import StorageError

from .url import printable

_MAX_REASON_LENGTH = 200


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Raise a StorageError that names `what` if the body fails to decode a stored value."""
    try:
        yield
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        reason = " ".join(printable(str(error)).split())[:_MAX_REASON_LENGTH]
        raise StorageError(
            f"{what} cannot be read from the database: {reason}; restore the database from a backup"
        ) from None
