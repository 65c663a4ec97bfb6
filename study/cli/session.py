"""What the commands share: logs on stderr, and expected errors as one message without traceback."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

BAD_INPUT, FAILED = 2, 3


log_console = Console(stderr=True)


def application(command: Any) -> typer.Typer:
    """A command line of one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return app


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn the errors a user can cause into `error: ...` and exit code 2."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from objectives.errors import EngineError, ExportError, QuestionError, SourceError, TaskError
    from storage.database.retry import cause
    from storage.errors import StorageError, StudyMismatch
    from study.config.errors import ConfigError

    bad_input = (
        ConfigError,
        ExportError,
        QuestionError,
        SourceError,
        StorageError,
        StudyMismatch,
        TaskError,
    )
    try:
        yield
    except bad_input as error:
        fail(error)
    except EngineError as error:
        fail(error, FAILED)
    except (SQLAlchemyError, StorageInternalError) as error:
        fail(f"the database failed: {cause(error)}; the same command goes on from there", FAILED)


def fail(error: object, code: int = BAD_INPUT) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


def start_logging(prefix: str = "", level: int = logging.INFO) -> None:
    """Logs to stderr, above the progress line where stderr is a terminal."""
    handler: logging.Handler = logging.StreamHandler()
    if log_console.is_terminal:
        handler = RichHandler(
            console=log_console, show_time=False, show_level=False, show_path=False
        )
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("study", "objectives", "storage", "__main__"):
        logging.getLogger(name).setLevel(level)
