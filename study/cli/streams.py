"""The standard streams of a command, on which a failed write does not raise an error.

A failed write to stdout is reported by the exit code at the end; a failed write to stderr is
ignored. Characters that the encoding does not have are replaced.
"""

import errno
import io
import os
import sys
from typing import TextIO

WRITE_FAILED, BROKEN_PIPE = 74, 141
"""Exit codes: EX_IOERR of sysexits.h, and 128 + SIGPIPE like other tools under `| head`."""


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
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Redirect the buffered and all further output to the null device."""
        self.error = self.error or error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        super().flush()


_replaced: list[TextIO] = []
"""Python's own streams: they would close their files if they were deleted."""


def guard_streams() -> None:
    """Replace stdout and stderr by Output. If descriptors 0 to 2 are closed, open them on the null
    device, so that no other file gets their numbers."""
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
            continue  # replaced by a test
        _replaced.append(stream)
        output = Output(stream)
        if number in closed:
            output.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        setattr(sys, name, output)


def exit_code(code: int) -> int:
    """Flush stdout, and return `code`, or another exit code if stdout could not be written.

    A code above 1 is kept. A broken pipe is not reported: the reader has closed it.
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
    return WRITE_FAILED


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
