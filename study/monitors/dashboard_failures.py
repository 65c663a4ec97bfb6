"""Failed requests of the dashboard: one line in the log each, and 503 if the database failed.

optuna-dashboard turns every exception of its views into 500 and logs a traceback, so the failures
of the database are observed at its engine.
"""

import io
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from storage.database.retry import driver_message
from storage.database.url import printable, sqlite_path

from .dashboard_access import Application, Environ, StartResponse, refuse

log = logging.getLogger(__name__)


class DatabaseMoved(SQLAlchemyError):
    """The SQLite file that a server has opened is no longer at its path."""


class FailureReporter(logging.Handler):
    """Reports the failed requests of one server, and handles optuna-dashboard's log messages."""

    def __init__(self, engine: Engine) -> None:
        """`engine` is that of the database that the server reads."""
        super().__init__()
        self._request = threading.local()
        event.listen(engine, "handle_error", self._remember)
        self._path = sqlite_path(engine.url)
        if self._path is not None:
            self._file = _inode(self._path)
            event.listen(engine, "begin", self._check_file, insert=True)

    def around(self, app: Application) -> Application:
        """Return the application with failures logged without a traceback."""

        def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            errors = environ["wsgi.errors"] = io.StringIO()
            self._request.error = self._request.message = None
            responses: list[Any] = []
            try:
                body = app(environ, lambda *response: responses.append(response))
            except (SQLAlchemyError, StorageInternalError) as error:
                return self._unavailable(start_response, error)
            status, *rest = responses[-1]
            if status.startswith("500") and self._request.error is not None:
                return self._unavailable(start_response, self._request.error)
            if message := errors.getvalue().strip().rpartition("\n")[2] or self._request.message:
                _log(message)
            start_response(status, *rest)
            return body

        return respond

    def _unavailable(self, start_response: StartResponse, error: Exception) -> Iterable[bytes]:
        _log(f"the database failed: {driver_message(error)}")
        return refuse(start_response, "503 Service Unavailable", "the database is unavailable")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of a request's message; the other lines are a traceback."""
        first = record.getMessage().partition("\n")[0]
        if hasattr(self._request, "message"):
            self._request.message = first
        else:
            _log(first)

    def _check_file(self, _: Connection) -> None:
        """Raise DatabaseMoved if the file at the path is not the one that was opened."""
        if self._path is not None and _inode(self._path) != self._file:
            self._request.error = DatabaseMoved(
                f"{self._path} was moved, removed or replaced; restore the file, or start the "
                "dashboard again"
            )
            raise self._request.error

    def _remember(self, context: ExceptionContext) -> None:
        self._request.error = context.original_exception


def _inode(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file at a path; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _log(text: str) -> None:
    log.error("a request failed: %s", printable(text))
