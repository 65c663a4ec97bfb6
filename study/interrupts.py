"""Ctrl-C and SIGTERM as an exception that never falls into a write."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to end. No Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """While entered, SIGINT and SIGTERM raise Interrupted; inside `held` they wait for its end."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: int | None = None

    def __enter__(self) -> "Interrupts":
        self._before = {
            number: signal.signal(number, self._arrive)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

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

    def _deliver(self) -> None:
        if self._waiting is not None and not self._held:
            number, self._waiting = self._waiting, None
            raise Interrupted(number)

    def _arrive(self, number: int, _: FrameType | None) -> None:
        self._waiting = number
        self._deliver()
