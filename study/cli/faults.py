"""What a command says when an error ends it, and the exit code: every error passes here.

An error of ours, or of the machine, is a message that says what can be done, and exit code 2, or
3 for what failed while it ran. Anything else is a fault of the program: one line that names a file
with the traceback, and exit code 70. The classes of libraries are looked up among the modules that
are loaded, because importing them would be slow and could fail as well.
"""

import errno
import os
import resource
import signal
import sys
from collections.abc import Mapping

from objectives.crash_report import without_secrets, write_fault
from objectives.errors import EngineError, InputError, ScorerError
from storage.errors import StorageError
from study.config.errors import ConfigError

from .boundary import FAULT
from .interrupts import Interrupted

BAD_INPUT, FAILED = 2, 3
_CTRL_C = 128 + signal.SIGINT
MOST_LINES, LONGEST_LINE = 8, 500
_DATABASE = {
    "optuna.exceptions": ("StorageInternalError",),
    "sqlalchemy.exc": ("SQLAlchemyError",),
}
_NO_MEMORY = (
    *("allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    "failed to map segment from shared object",
)
_REMEDIES = {
    errno.ENOSPC: "free some room, or choose another disk; TMPDIR and HF_HOME move files too",
    errno.EDQUOT: "free some room, or have the quota raised",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine's limit of open files is reached",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EIO: "the disk, or the network behind it, fails",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a symbolic link points to itself",
    errno.ESTALE: "the network drive is gone",
}


def ended_by(error: BaseException, prefix: str = "") -> int:
    """Say why an error ends the command, each line after `prefix`; return the exit code."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        print(f"{prefix}interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else _CTRL_C
    message, code = _told(error)
    print(message_of(f"error: {message}", prefix), file=sys.stderr)
    return code


def _told(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ConfigError | InputError | StorageError):
        return str(error), BAD_INPUT
    if isinstance(error, EngineError):
        return str(error), FAILED
    if isinstance(error, ScorerError):
        return f"{error}; the same command goes on from there", FAILED
    if _is_one_of(error, _DATABASE):
        return _of_the_database(error)
    if machine := _of_the_machine(error):
        return machine, BAD_INPUT
    path = write_fault(error)
    kind = type(error).__name__
    if path is None:
        first = " ".join(without_secrets(str(error), os.environ).split())[:200]
        return f"a fault of this program, no file could be written: {kind}: {first}", FAULT
    return f"a fault of this program ({kind}); please report it with the file {path}", FAULT


def _of_the_database(error: BaseException) -> tuple[str, int]:
    from storage.database.reasons import remedy
    from storage.database.retry import driver_message, is_transient
    from storage.database.url import printable

    text, advice = printable(driver_message(error)), remedy(error)
    if advice and not is_transient(error):
        return f"the database failed: {text}; {advice}", BAD_INPUT
    return f"the database failed: {text}; the same command goes on from there", FAILED


def message_of(text: str, prefix: str = "") -> str:
    """A message as a terminal may show it: at most 8 lines, and no control characters."""
    lines = text.rstrip().split("\n")
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"  ... and {left} more"]
    return "\n".join(f"{prefix}{escaped(_shortened(line))}" for line in lines)


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."


def escaped(line: str) -> str:
    """A line whose control characters are written out, so that a terminal obeys none of them."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def _is_one_of(error: BaseException, classes: Mapping[str, tuple[str, ...]]) -> bool:
    there = [
        (sys.modules[module], names) for module, names in classes.items() if module in sys.modules
    ]
    kinds = [getattr(module, name, None) for module, names in there for name in names]
    return isinstance(error, tuple(kind for kind in kinds if kind is not None))


def _of_the_machine(error: BaseException) -> str | None:
    """What to say of a want of memory, threads, files or rights; None of anything else."""
    if _is_no_memory(error):
        return f"out of memory{_limit(resource.RLIMIT_AS, 'ulimit -v')}: {_MEMORY_REMEDY}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        limit = _limit(resource.RLIMIT_NPROC, "ulimit -u", 1)
        return f"no further thread can be started{limit}: raise the limit, or run fewer workers"
    if isinstance(error, RecursionError):
        return (
            "an input is nested too deeply to be read: flatten it, or take away what is generated"
        )
    if isinstance(error, OSError) and error.errno is not None:
        remedy = _REMEDIES.get(error.errno)
        if remedy or error.filename is not None:
            place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
            return f"{place}{os.strerror(error.errno)}" + (f"; {remedy}" if remedy else "")
    return None


_MEMORY_REMEDY = "run fewer --workers, lower engine.batch_tokens, or raise the limit of memory"


def _is_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds = (ImportError, OSError, RuntimeError)
    return isinstance(error, kinds) and any(text in str(error).lower() for text in _NO_MEMORY)


def _limit(which: int, name: str, unit: int = 2**30) -> str:
    soft, _ = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY:
        return ""
    return f" (the limit is {soft / unit:.3g}{' GiB' if unit > 1 else ''}, {name})"
