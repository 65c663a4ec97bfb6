"""Call a task's own scoring code with a timeout, and retry it after a failure.

Such code may be a judge behind HTTP: it may fail, hang, or wait for long. A single call at a time
runs in the main thread, where an alarm also interrupts code that holds the GIL, and where code may
set its own alarms. Concurrent calls run in threads, which cannot be ended; one that exceeds its
timeout is abandoned, and does not keep the program from exiting.
"""

import contextlib
import logging
import queue
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Generic, TypeVar

from objectives.errors import ScorerError

log = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds before a failed call is retried; they double from the first to the longest."""
_ALARM_INTERVAL = 1.0
"""Seconds after which the alarm is raised again, if the code has caught the exception."""
_LOGIN = re.compile(r"//[^\s/]*@")
_QUERY = re.compile(r"(\w[\w.:/-]*)\?[^\s'\")]*=[^\s'\")]*")


class _TimedOut(BaseException):
    """A call exceeded its timeout. No Exception, so that `except Exception` does not hide it."""


@dataclass(frozen=True)
class Scoring:
    """How the scoring code of one task is called."""

    concurrency: int = 1
    """The number of concurrent calls."""
    timeout: float = 60.0
    """The timeout of a call in seconds."""
    retries: int = 4
    """The number of retries after a failure."""

    def one(self, name: str, work: Callable[[], T], stretch: float = 1.0) -> T:
        """Return the result of `work`; `stretch` multiplies the timeout. Raises ScorerError."""
        return self._all([0], lambda _: name, lambda _: work(), self.timeout * stretch, 1)[0]

    def each(
        self, keys: Sequence[K], name: Callable[[K], str], work: Callable[[K], T]
    ) -> dict[K, T]:
        """Return the result of `work` for each key, in their order.

        `name` returns a key's name for messages. Raises ScorerError if the last retry of a key
        fails.
        """
        return self._all(keys, name, work, self.timeout, self.concurrency)

    def _all(
        self,
        keys: Sequence[K],
        name: Callable[[K], str],
        work: Callable[[K], T],
        timeout: float,
        concurrency: int,
    ) -> dict[K, T]:
        if concurrency == 1 and threading.current_thread() is threading.main_thread():
            return {key: self._in_turn(key, name, work, timeout) for key in keys}
        calls = _Calls(work, timeout, concurrency, deque((0.0, key, 0) for key in keys))
        results: dict[K, T] = {}
        while len(results) < len(keys):
            key, attempt, outcome = calls.next()
            if isinstance(outcome, _Raised):
                wait = self._wait(name(key), attempt, outcome.error, timeout)
                calls.waiting.append((time.monotonic() + wait, key, attempt + 1))
            else:
                results[key] = outcome
        return {key: results[key] for key in keys}

    def _in_turn(
        self, key: K, name: Callable[[K], str], work: Callable[[K], T], timeout: float
    ) -> T:
        attempt = 0
        while True:
            try:
                with _alarm(timeout):
                    return work(key)
            except (Exception, SystemExit, _TimedOut) as error:
                wait = self._wait(name(key), attempt, error, timeout)
            time.sleep(wait)
            attempt += 1

    def _wait(self, name: str, attempt: int, error: BaseException, timeout: float) -> float:
        """Return the seconds until the next retry. Raises ScorerError if there is none."""
        reason = f"{type(error).__name__}: {_without_secrets(' '.join(str(error).split()))[:200]}"
        if isinstance(error, _TimedOut):
            reason = f"no result within {timeout:g} s (scorer_timeout)"
        if attempt >= self.retries:
            count = f" {attempt + 1} times" if attempt else ""
            raise ScorerError(f"{name} failed{count}: {reason}") from error
        wait: float = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
        log.warning("%s failed: %s; retrying in %g s", name, reason, wait)
        return wait


def _without_secrets(text: str) -> str:
    """Return a text without possible secrets in URLs: user information and queries."""
    return _QUERY.sub(r"\1?***", _LOGIN.sub("//***@", text))


@dataclass(frozen=True)
class _Raised:
    error: BaseException


@dataclass
class _Calls(Generic[K, T]):
    """Concurrent calls in threads."""

    work: Callable[[K], T]
    timeout: float
    concurrency: int
    waiting: deque[tuple[float, K, int]]
    """The time at which a call may start, its key, and the number of failed attempts."""
    _running: dict[int, tuple[float, K, int]] = field(default_factory=dict)
    """By the number of the call: the end of its timeout, its key, and the failed attempts."""
    _ended: "queue.Queue[tuple[int, T | _Raised]]" = field(default_factory=queue.Queue)
    _started: int = 0

    def next(self) -> tuple[K, int, T | _Raised]:
        """Wait for a call that ends or times out; return its key, failed attempts and outcome."""
        while True:
            now = time.monotonic()
            self._start(now)
            for number, (end, key, attempt) in self._running.items():
                if now >= end:
                    del self._running[number]
                    return key, attempt, _Raised(_TimedOut())
            times = [end for end, _, _ in self._running.values()]
            if len(self._running) < self.concurrency:
                times += [ready for ready, _, _ in self.waiting]
            try:
                number, outcome = self._ended.get(timeout=max(0.0, min(times) - now))
            except queue.Empty:
                continue
            if number in self._running:  # else it timed out and was abandoned
                _, key, attempt = self._running.pop(number)
                return key, attempt, outcome

    def _start(self, now: float) -> None:
        for _ in range(len(self.waiting)):
            ready, key, attempt = self.waiting.popleft()
            if ready > now or len(self._running) >= self.concurrency:
                self.waiting.append((ready, key, attempt))
                continue
            self._started += 1
            self._running[self._started] = (now + self.timeout, key, attempt)
            name = f"scorer {self._started}"
            arguments = (self._started, key)
            threading.Thread(target=self._call, args=arguments, name=name, daemon=True).start()

    def _call(self, number: int, key: K) -> None:
        try:
            outcome: T | _Raised = self.work(key)
        except BaseException as error:  # handled in the waiting thread
            outcome = _Raised(error)
        self._ended.put((number, outcome))


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise _TimedOut in the main thread after a timeout, and again if the code catches it."""
    rings: list[bool] = []
    ended: list[bool] = []

    def ring(number: int, frame: FrameType | None) -> None:
        if not ended:
            rings.append(True)
            raise _TimedOut

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _ALARM_INTERVAL)
    try:
        try:
            yield
        finally:
            ended.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # an earlier alarm continues
            rest = max(left - (time.monotonic() - started), 0.001)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)
    if rings:
        raise _TimedOut
