"""Waits for a database that is away: what may pass is tried again, anything else raised at once."""

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

_FIRST_WAIT, _LONGEST_WAIT, _QUIET = 0.05, 5.0, 2.0
"""Seconds: between tries, and before a wait is worth a word."""

_SQLITE_PASSES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
}
_POSTGRES_PASSES = ("08", "40", "53", "55P03", "57", "58", "25P03")
"""SQLSTATE classes: connection, rollback, resources, locks, intervention, system, idle session."""
_POSTGRES_STAYS = ("57P04",)
"""The database was dropped."""


class Patience:
    """Runs database work again while its failures are such that pass.

    A failure may come after the server has done the work, so work must bear being done twice.
    """

    def __init__(self, limit: float, pause: Callable[[float], None] = time.sleep) -> None:
        """`limit` is in seconds; `pause` sleeps, and may raise to end the wait."""
        self._limit, self._pause = limit, pause

    def __call__(self, work: Callable[[], T]) -> T:
        """What `work` gives. Raises its last error once the limit is over."""
        told: list[float] = []
        retrying = Retrying(
            retry=retry_if_exception(passes),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            stop=stop_after_delay(self._limit),
            sleep=self._pause,
            before_sleep=lambda state: self._tell(state, told),
            reraise=True,
        )
        began = time.monotonic()
        result = retrying(work)
        if told:
            log.warning("the database answers again after %.0f s", time.monotonic() - began)
        return result

    def _tell(self, state: RetryCallState, told: list[float]) -> None:
        waited = state.seconds_since_start or 0.0
        if waited < _QUIET or (told and waited < 2 * told[-1]):
            return
        told.append(waited)
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "the database fails since %.0f s (%s); waiting up to %.0f s",
            *(waited, cause(error), self._limit),
        )


def passes(error: BaseException) -> bool:
    """Whether a database error may be gone at the next try."""
    error = innermost(error)
    if not isinstance(error, DBAPIError):
        return False
    original: Any = error.orig
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_PASSES
    state = sqlstate(original)
    if state is None:  # the connection broke, or could not be made
        return error.connection_invalidated or type(original).__name__ in (
            "OperationalError",
            "InterfaceError",
        )
    return state.startswith(_POSTGRES_PASSES) and state not in _POSTGRES_STAYS


def sqlstate(original: Any) -> str | None:
    """The SQLSTATE of a driver's exception: psycopg2 and psycopg name it differently."""
    return getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)


def cause(error: BaseException | None) -> str:
    """What the driver said, in one line."""
    inner = innermost(error) if error is not None else error
    original = inner.orig if isinstance(inner, DBAPIError) else None
    return " ".join(str(original or inner).split())


def innermost(error: BaseException) -> BaseException:
    """What Optuna has wrapped; it asks a broken session once more and so hides why it broke."""
    while isinstance(error, StorageInternalError | PendingRollbackError):
        under = error.__cause__ or error.__context__
        if under is None:
            return error
        error = under
    return error
