"""Ctrl-C and SIGTERM as an exception that never falls into a write."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to end. No Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """While entered, SIGINT and SIGTERM (or those given) raise Interrupted; inside `held` they wait
    for its end.

    Python drops an exception that arises in a weak reference's callback or a finalizer, of which an
    import runs thousands: one that was raised and did not end what is going on is raised again.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers or (signal.SIGINT, signal.SIGTERM)
        self._held = False
        self._waiting: int | None = None
        self._raised: int | None = None

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._arrive) for number in self._numbers}
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._raised and error is not None and not isinstance(error, Interrupted):
            raise Interrupted(self._raised) from error  # a library made another error of it

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait until this ends."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        self._deliver()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Inside `held`: signals come through here, also one that has waited."""
        before, self._held = self._held, False
        try:
            self._deliver()
            yield
        finally:
            self._held = before

    def pause(self, seconds: float) -> None:
        """Sleep; signals come through, also inside `held`."""
        with self.released():
            time.sleep(seconds)

    def _deliver(self) -> None:
        if self._held:
            return
        if self._waiting is not None:
            self._raised, self._waiting = self._waiting, None
            raise Interrupted(self._raised)
        if self._raised is not None and not _unwinding():
            raise Interrupted(self._raised)

    def _arrive(self, number: int, _: FrameType | None) -> None:
        self._waiting = number
        self._deliver()


def _unwinding() -> bool:
    """Whether an Interrupted is on its way out."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None
