"""The boundary of every command: how it ends when a signal, an error or a fault ends it.

`begin` runs before anything else is imported, so nothing here imports what is slow or may fail.
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


def begin(signals: bool = True) -> None:
    """Guard the standard streams; report faults, and the signals if asked to, without traceback.

    Until a command has begun to work a signal ends the process at once; then its Interrupts take
    over.
    """
    guard_streams()
    sys.excepthook = _report_fault
    sys.unraisablehook = _ignore  # such an exception ended nothing
    for number in _SIGNALS if signals else ():
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, _end)


def main(
    command: Callable[..., None], name: str | None = None, arguments: list[str] | None = None
) -> NoReturn:
    """Run a command with these arguments, by default those of this process, and end the process.

    `name` is what its help calls it.
    """

    def work() -> None:
        from study.cli.session import application

        application(command)(arguments, prog_name=name or f"python -m study.{command.__name__}")

    bounded(work)


def bounded(work: Callable[[], None]) -> NoReturn:
    """Do some work and end the process, with the exit code that it raises or its error has."""
    begin()
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # before the command's own boundary, as in an import
        from study.cli.faults import ended_by

        code = ended_by(error)
    raise SystemExit(exit_code(code))


def _end(number: int, _: FrameType | None) -> None:
    """End at once: nothing has been begun that a database or a file would miss."""
    guard_streams()
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _report_fault(
    kind: type[BaseException], error: BaseException, _: TracebackType | None
) -> NoReturn:
    from study.cli.faults import ended_by

    raise SystemExit(exit_code(ended_by(error)))


def _ignore(_: Any) -> None:
    """In a finalizer: there is nobody to catch it, and what it was about is gone."""
