"""The standard streams of a command: a write that fails ends nothing, and is remembered.

What cannot be written to stdout is reported at the end, by exit code, when all else is done; what
cannot be written to stderr is lost. Characters that a terminal does not have are replaced.
"""

import errno
import io
import os
import sys
from typing import TextIO

LOST, BROKEN_PIPE = 74, 141
"""Exit codes: EX_IOERR of sysexits.h, and 128 + SIGPIPE as of a Unix tool under `| head`."""


class Output(io.TextIOWrapper):
    """A text stream that keeps its first error instead of raising it."""

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="replace" if stream.errors == "strict" else stream.errors,
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Send what is buffered, and all that follows, nowhere."""
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


_replaced: list[TextIO] = []
"""Python's own streams, which would close their file if nothing held them."""


def guard_streams() -> None:
    """Put an Output in the place of stdout and of stderr; a closed one gets its number back, so
    that no file of ours is opened under it."""
    closed = {number for number in (0, 1, 2) if not _is_open(number)}
    for _ in closed:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            continue
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        elif type(stream) is not io.TextIOWrapper:
            continue  # a test's
        _replaced.append(stream)
        output = Output(stream)
        if number in closed:
            output.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        setattr(sys, name, output)


def exit_code(code: int) -> int:
    """Flush stdout; return the exit code of a command whose own one is `code`.

    A command that succeeded fails if its results could not be written; one that failed keeps its
    code. A broken pipe is not worth a message: whoever reads has had enough.
    """
    stdout = sys.stdout
    if stdout is None:
        return code
    stdout.flush()
    error = stdout.error if isinstance(stdout, Output) else None
    if error is None or code > 1:
        return code
    if error.errno == errno.EPIPE:
        return BROKEN_PIPE
    print(f"error: standard output could not be written: {error.strerror}", file=sys.stderr)
    return LOST


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
