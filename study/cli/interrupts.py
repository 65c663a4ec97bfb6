"""Raise SIGINT and SIGTERM as an exception that never interrupts a write."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to end. It is no Exception, so that no broad handler catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """Within this context, SIGINT and SIGTERM (or `numbers`) raise Interrupted.

    Python ignores an exception that is raised in a finalizer or in the callback of a weak
    reference, of which an import runs thousands. Such an Interrupted is therefore raised again.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers or (signal.SIGINT, signal.SIGTERM)
        self._deferred = False
        self._pending: int | None = None
        self._raised: int | None = None

    def __enter__(self) -> "Interrupts":
        self._previous = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._raised and error is not None and not isinstance(error, Interrupted):
            raise Interrupted(self._raised) from error  # a library replaced it by another error

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals until the end of this context."""
        previous, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = previous
        self._deliver()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Deliver signals within `deferred`, including one that has arrived before."""
        previous, self._deferred = self._deferred, False
        try:
            self._deliver()
            yield
        finally:
            self._deferred = previous

    def pause(self, seconds: float) -> None:
        """Sleep. A signal ends the sleep, also within `deferred`."""
        with self.allowed():
            time.sleep(seconds)

    def _deliver(self) -> None:
        if self._deferred:
            return
        if self._pending is not None:
            self._raised, self._pending = self._pending, None
            raise Interrupted(self._raised)
        if self._raised is not None and not _unwinding():
            raise Interrupted(self._raised)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._pending = number
        self._deliver()


def _unwinding() -> bool:
    """Return whether an Interrupted is propagating."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None
