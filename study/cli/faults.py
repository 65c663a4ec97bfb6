"""The message and the exit code for each error that ends a command.

Errors that the user can correct, including those of the machine, have exit code 2. Failures of the
engine, of a task's scorer or of the database connection have exit code 3. A signal has 128 plus its
number. Any other error is an internal error: its traceback is written to a file
that the message names, and the exit code is 70. Error classes of libraries are looked up in the
loaded modules, because importing them would be slow and could fail.
"""

import errno
import os
import re
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
MAX_LINES, MAX_LINE_LENGTH = 8, 500
_LONG_WORD = re.compile(r"(\S{100})\S{100,}(\S{40})")
"""A URL, path or name that would displace the rest of the message, with the parts to keep."""
_DATABASE = {
    "optuna.exceptions": ("StorageInternalError",),
    "sqlalchemy.exc": ("SQLAlchemyError",),
}
_NO_MEMORY = (
    *("allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    "failed to map segment from shared object",
)
_REMEDIES = {
    errno.ENOSPC: "free some space, or use another disk (TMPDIR and HF_HOME set folders)",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose a writable path",
    errno.EIO: "check the disk or the network drive",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "correct the symbolic links, which form a loop",
    errno.ESTALE: "mount the network drive again",
}


def report_error(error: BaseException, prefix: str = "") -> int:
    """Print the message for an error, each line after `prefix`; return the exit code."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        print(f"{prefix}interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else _CTRL_C
    message, code = _message_and_code(error)
    print(format_message(f"error: {message}", prefix), file=sys.stderr)
    return code


def _message_and_code(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ConfigError | InputError | StorageError):
        return str(error), BAD_INPUT
    if isinstance(error, EngineError):
        return str(error), FAILED
    if isinstance(error, ScorerError):
        return f"{error}; run the same command again to continue", FAILED
    if _is_one_of(error, _DATABASE):
        return _database_error(error)
    if machine := _machine_error(error):
        return machine, BAD_INPUT
    path = write_fault(error)
    kind = type(error).__name__
    if path is None:
        first = " ".join(without_secrets(str(error), os.environ).split())[:200]
        return f"internal error ({kind}: {first}); the report could not be written", FAULT
    return f"internal error ({kind}); please report it with the file {path}", FAULT


def _database_error(error: BaseException) -> tuple[str, int]:
    from storage.database.reasons import remedy
    from storage.database.retry import driver_message, is_transient
    from storage.database.url import printable

    text, advice = printable(driver_message(error)), remedy(error)
    if advice and not is_transient(error):
        return f"the database failed: {text}; {advice}", BAD_INPUT
    return f"the database failed: {text}; run the same command again to continue", FAILED


def format_message(text: str, prefix: str = "") -> str:
    """Return a message for the terminal: at most MAX_LINES lines, without control characters, in
    which long words are shortened in the middle."""
    lines = text.rstrip().split("\n")
    if len(lines) > MAX_LINES:
        hidden = len(lines) - MAX_LINES + 1
        lines = [*lines[: MAX_LINES - 1], f"  ... and {hidden} more"]
    return "\n".join(f"{prefix}{escaped(_shortened(line))}" for line in lines)


def _shortened(line: str) -> str:
    line = _LONG_WORD.sub(r"\1...\2", line)
    return line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]} ..."


def escaped(line: str) -> str:
    """Replace the control characters of a line by escape sequences."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def _is_one_of(error: BaseException, classes: Mapping[str, tuple[str, ...]]) -> bool:
    loaded = [
        (sys.modules[module], names) for module, names in classes.items() if module in sys.modules
    ]
    kinds = [getattr(module, name, None) for module, names in loaded for name in names]
    return isinstance(error, tuple(kind for kind in kinds if kind is not None))


def _machine_error(error: BaseException) -> str | None:
    """Return the message for an error of memory, threads, recursion depth or the file system; None
    for any other error."""
    if _is_no_memory(error):
        return f"out of memory{_limit(resource.RLIMIT_AS, 'ulimit -v')}: {_MEMORY_REMEDY}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        limit = _limit(resource.RLIMIT_NPROC, "ulimit -u", 1)
        return f"no more threads can be started{limit}: raise the limit, or run fewer workers"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply; reduce its nesting"
    if isinstance(error, OSError) and error.errno is not None:
        remedy = _REMEDIES.get(error.errno)
        if remedy or error.filename is not None:
            place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
            return f"{place}{os.strerror(error.errno)}" + (f"; {remedy}" if remedy else "")
    return None


_MEMORY_REMEDY = "lower --workers or engine.batch_tokens, or raise the memory limit"


def _is_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds = (ImportError, OSError, RuntimeError)
    return isinstance(error, kinds) and any(text in str(error).lower() for text in _NO_MEMORY)


def _limit(which: int, name: str, unit: int = 2**30) -> str:
    soft, _ = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY:
        return ""
    value = f"{soft / unit:.3g} GiB" if unit > 1 else f"{soft:,}"
    return f" (the limit is {value}, {name})"
