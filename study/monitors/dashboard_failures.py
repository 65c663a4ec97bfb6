"""Failed requests of the dashboard: one line in the log each, and 503 if the database failed.

optuna-dashboard turns every exception of its views into 500 and logs a traceback, so the failures
of the database are observed at its engine.
"""

import io
import logging
import threading
from collections.abc import Iterable
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from storage.database.retry import driver_message
from storage.database.url import printable

from .dashboard_access import Application, Environ, StartResponse, refuse

log = logging.getLogger(__name__)


class FailureReporter(logging.Handler):
    """Reports the failed requests of one server, and handles optuna-dashboard's log messages."""

    def __init__(self, engine: Engine) -> None:
        """`engine` is that of the database that the server reads."""
        super().__init__()
        self._request = threading.local()
        event.listen(engine, "handle_error", self._remember)

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

    def _remember(self, context: ExceptionContext) -> None:
        self._request.error = context.original_exception


def _log(text: str) -> None:
    log.error("a request failed: %s", printable(text))
