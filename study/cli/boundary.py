"""The outermost level of every command: turn signals and errors into a message and an exit code.

`install_handlers` runs before other imports, so this module imports nothing slow or unreliable.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from .streams import exit_code, guard_streams

FAULT = 70
"""Exit code: EX_SOFTWARE of sysexits.h."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def install_handlers(signals: bool = True) -> None:
    """Guard the standard streams, and report uncaught exceptions without a traceback.

    With `signals`, SIGINT and SIGTERM end the process at once, until the command's Interrupts
    replace these handlers.
    """
    guard_streams()
    sys.excepthook = _report_uncaught
    sys.unraisablehook = _ignore  # such an exception does not end the program
    for number in _SIGNALS if signals else ():
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _exit)


def main(
    command: Callable[..., None], name: str | None = None, arguments: list[str] | None = None
) -> NoReturn:
    """Run a command and end the process.

    `arguments` are those of this process by default. `name` is the program's name in the help.
    """

    def work() -> None:
        from study.cli.session import application

        application(command)(arguments, prog_name=name or f"python -m study.{command.__name__}")

    run_and_exit(work)


def run_and_exit(work: Callable[[], None]) -> NoReturn:
    """Call a function and end the process with the exit code that it or its error has."""
    install_handlers()
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # outside `reporting_errors`, for example in an import
        from study.cli.faults import report_error

        code = report_error(error)
    raise SystemExit(exit_code(code))


def _exit(number: int, _: FrameType | None) -> None:
    """End the process at once: it has not started to write to a database or a file."""
    guard_streams()
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _report_uncaught(
    kind: type[BaseException], error: BaseException, _: TracebackType | None
) -> NoReturn:
    from study.cli.faults import report_error

    raise SystemExit(exit_code(report_error(error)))


def _ignore(_: Any) -> None:
    """Ignore an exception in a finalizer: nothing can handle it."""
