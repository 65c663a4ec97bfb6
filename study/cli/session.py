"""What the commands share: their options, their boundary, and logs on stderr."""

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

from .faults import BAD_INPUT, ended_by, escaped, message_of

log_console = Console(stderr=True)


def application(command: Callable[..., None]) -> typer.Typer:
    """A command line of one command, whose errors end it as `reported` says."""

    @functools.wraps(command)
    def bounded(*args: Any, **options: Any) -> None:
        with reported():
            command(*args, **options)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bounded)
    return app


@contextlib.contextmanager
def reported(prefix: str = "") -> Iterator[None]:
    """Turn whatever ends a command into a message, each line after `prefix`, and an exit code.

    Threads report their faults too, and end nothing but themselves.
    """
    threading.excepthook = lambda ended: _thread_ended(ended, prefix)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # Rust's panics are no Exception
        raise SystemExit(ended_by(error, prefix)) from None


def _thread_ended(ended: threading.ExceptHookArgs, prefix: str) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        ended_by(ended.exc_value, prefix)


def fail(error: object, code: int = BAD_INPUT) -> NoReturn:
    print(message_of(f"error: {error}"), file=sys.stderr)
    raise SystemExit(code)


class _Formatter(logging.Formatter):
    """Lines of a log that no control character of a name or an answer can change."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(escaped(line) for line in super().format(record).split("\n"))


def start_logging(prefix: str = "", level: int = logging.INFO) -> None:
    """Logs to stderr, above the progress line where stderr is a terminal."""
    handler: logging.Handler = logging.StreamHandler()
    if log_console.is_terminal:
        handler = RichHandler(
            console=log_console, show_time=False, show_level=False, show_path=False
        )
    handler.setFormatter(_Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logging.raiseExceptions = False  # what cannot be written to stderr is lost, and nothing else
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("study", "objectives", "storage", "__main__"):
        logging.getLogger(name).setLevel(level)
