"""Turn a driver's error into one line for the user: the reason, without secrets, and a remedy."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.errors import StorageError

from .retry import driver_message, innermost, sqlstate
from .url import printable, redacted, sqlite_path, without_secrets

_CONNECT = (
    "check that the server is running, and check host, port, user, password and database name"
)
_BY_STATE = {
    "42501": "grant the user SELECT, INSERT, UPDATE and DELETE on the tables, USAGE on their "
    "sequences, and for a new study CREATE on the schema",
    "25006": "the database is read-only: use the primary server, or another user",
    "3D000": "create the database, or correct its name",
    "28": "correct the user name or the password",
    "22P05": "the database's encoding cannot store the text: create it with ENCODING 'UTF8'",
    "22021": "the database's encoding cannot store the text: create it with ENCODING 'UTF8'",
    "55P03": "another process holds a lock: end that process, or try again",
    "53300": "too many connections: raise max_connections, or start fewer workers",
}
"""Remedies by SQLSTATE, or by its class (the first two characters)."""
_BY_CODE = {
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_PERM: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "the file and its folder must exist, be readable and be writable",
    sqlite3.SQLITE_NOTADB: "choose another file, or a new one",
    sqlite3.SQLITE_CORRUPT: "restore the file from a backup",
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_BUSY: "another process holds a lock: end that process, or try again",
}
"""Remedies by SQLite's primary error code."""


def remedy(error: BaseException) -> str:
    """Return what the user can do about a database error; empty if unknown."""
    inner = innermost(error)
    original: Any = inner.orig if isinstance(inner, DBAPIError) else inner
    if isinstance(original, sqlite3.Error):
        return _BY_CODE.get((getattr(original, "sqlite_errorcode", None) or 0) & 0xFF, "")
    state = sqlstate(original) or ""
    return _BY_STATE.get(state) or _BY_STATE.get(state[:2], "")


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise errors that occur while the database at this URL is opened as StorageError."""
    try:
        yield
    except StorageError:
        raise
    except (SQLAlchemyError, OSError, sqlite3.Error, ValueError, TypeError) as error:
        raise StorageError(unusable(url, error)) from None


def unusable(url: str, error: BaseException) -> str:
    """Return the message that a database cannot be used, with the reason and the remedy."""
    text = printable(without_secrets(driver_message(error), url))
    advice = remedy(error)
    inner = innermost(error)
    if not advice and sqlite_path(url) is None and not sqlstate(getattr(inner, "orig", None)):
        advice = _CONNECT
        if redacted(url).endswith("..."):
            advice += "; percent-encode special characters of the user name and the password"
    separator = "" if not advice else " " if text.endswith(("?", ".")) else "; "
    return f"cannot use {redacted(url)}: {text}{separator}{advice}"
