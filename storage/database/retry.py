"""Retry database work after transient failures; raise any other error at once."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_random_exponential

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0
"""Seconds between tries: the mean grows from the first to the longest."""
_SILENT_SECONDS = 2.0
"""Seconds without the database before the first warning; later ones follow at double the time."""

_SQLITE_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
}
_POSTGRES_TRANSIENT = ("08", "40", "53", "55P03", "57", "58", "25P03", "25006")
"""SQLSTATE classes: connection, rollback, resources, locks, intervention, system, idle session, and
a server that is read-only, as during a failover."""
_POSTGRES_PERMANENT = ("57P04",)
"""Codes of these classes that are not transient: the database was dropped."""


class RetryPolicy:
    """How long database work is retried.

    A failure may be reported after the server has done the work, so the work must be idempotent.
    """

    def __init__(self, limit: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """`limit` is in seconds; 0 means no retry. `sleep` may raise to end the wait early."""
        self._limit, self._sleep = limit, sleep

    def __call__(self, work: Callable[[], T]) -> T:
        """Return the result of `work`. Raises its last error once the limit is reached."""
        warned: list[float] = []
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            stop=stop_after_delay(self._limit),
            sleep=self._sleep,
            before_sleep=lambda state: self._warn(state, warned),
            reraise=True,
        )
        start = time.monotonic()
        result = retrying(work)
        if warned:
            log.warning("the database is available again after %.0f s", time.monotonic() - start)
        return result

    def _warn(self, state: RetryCallState, warned: list[float]) -> None:
        """Log a warning unless one was logged recently; `warned` holds the times of all."""
        waited = state.seconds_since_start or 0.0
        if waited < _SILENT_SECONDS or (warned and waited < 2 * warned[-1]):
            return
        warned.append(waited)
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "the database has been unavailable for %.0f s (%s); retrying for up to %.0f s",
            *(waited, driver_message(error), self._limit),
        )


NO_RETRY = RetryPolicy(0)


def is_transient(error: BaseException) -> bool:
    """Return whether a database error may be gone at the next try."""
    error = innermost(error)
    if not isinstance(error, DBAPIError):
        return False
    original: Any = error.orig
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_TRANSIENT
    state = sqlstate(original)
    if state is None:  # the connection was lost, or could not be made
        return error.connection_invalidated or type(original).__name__ in (
            "OperationalError",
            "InterfaceError",
        )
    return state.startswith(_POSTGRES_TRANSIENT) and state not in _POSTGRES_PERMANENT


def sqlstate(original: Any) -> str | None:
    """Return the SQLSTATE of a driver's exception; psycopg2 and psycopg name it differently."""
    return getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)


def driver_message(error: BaseException | None) -> str:
    """Return the driver's own message in one line."""
    inner = innermost(error) if error is not None else error
    original = inner.orig if isinstance(inner, DBAPIError) else None
    return " ".join(str(original or inner).split())


def innermost(error: BaseException) -> BaseException:
    """Return the error that Optuna has wrapped.

    Optuna uses a broken session once more, and the error of that hides the first one.
    """
    while isinstance(error, StorageInternalError | PendingRollbackError):
        wrapped = error.__cause__ or error.__context__
        if wrapped is None:
            return error
        error = wrapped
    return error
