"""Build a command's application, report its errors, and log to stderr."""

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from .faults import BAD_INPUT, escaped, format_message, report_error

log_console = Console(stderr=True)


def application(command: Callable[..., None]) -> typer.Typer:
    """Return the application of one command; errors end it as in `reporting_errors`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        with reporting_errors():
            command(*args, **options)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(wrapped)
    return app


@contextlib.contextmanager
def reporting_errors(prefix: str = "") -> Iterator[None]:
    """Turn an exception into a message, each line after `prefix`, and SystemExit with an exit code.

    An exception in a thread is reported too, and ends only the thread.
    """
    threading.excepthook = lambda args: _report_thread(args, prefix)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # Rust's panics are not subclasses of Exception
        raise SystemExit(report_error(error, prefix)) from None


def _report_thread(args: threading.ExceptHookArgs, prefix: str) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        report_error(args.exc_value, prefix)


def fail(error: object, code: int = BAD_INPUT) -> NoReturn:
    """Print an error message and end the command with this exit code."""
    print(format_message(f"error: {error}"), file=sys.stderr)
    raise SystemExit(code)


class _Formatter(logging.Formatter):
    """Escape control characters, which names and answers may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(escaped(line) for line in super().format(record).split("\n"))


def start_logging(prefix: str = "", level: int = logging.INFO) -> None:
    """Log to stderr; if it is a terminal, above the progress line."""
    handler: logging.Handler = logging.StreamHandler()
    if log_console.is_terminal:
        handler = RichHandler(
            console=log_console, show_time=False, show_level=False, show_path=False
        )
    handler.setFormatter(_Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logging.raiseExceptions = False  # a log line that cannot be written is lost
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("study", "objectives", "storage", "__main__"):
        logging.getLogger(name).setLevel(level)
