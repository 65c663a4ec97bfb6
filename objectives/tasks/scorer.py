"""How scoring code of a task's own is called: with a timeout, and again after a failure.

Such code may be a judge behind HTTP. It fails, hangs, and is slow because it waits. One call at a
time runs in the main thread, where an alarm ends also what holds Python's lock, and where code that
sets alarms of its own works. Several at a time run in threads, which cannot be ended: one that is
late is abandoned, and does not keep the program from ending.
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
"""Seconds before a failed call is repeated; they double from one to the other."""
_AGAIN = 1.0
"""Seconds after which an alarm rings once more, if the code has swallowed it."""
_LOGIN = re.compile(r"//[^\s/]*@")
_QUERY = re.compile(r"(\w[\w.:/-]*)\?[^\s'\")]*=[^\s'\")]*")


class _Late(BaseException):
    """The time is over. No Exception, so that code which catches all of them does not score it."""


@dataclass(frozen=True)
class Scoring:
    """How the scoring code of one task is called."""

    concurrency: int = 1
    """Calls at a time."""
    timeout: float = 60.0
    """Seconds that a call may take."""
    retries: int = 4
    """How often a call is repeated after a failure."""

    def one(self, name: str, work: Callable[[], T], stretch: float = 1.0) -> T:
        """What `work` returns; `stretch` multiplies the timeout. Raises ScorerError."""
        return self._all([0], lambda _: name, lambda _: work(), self.timeout * stretch, 1)[0]

    def each(
        self, keys: Sequence[K], name: Callable[[K], str], work: Callable[[K], T]
    ) -> dict[K, T]:
        """What `work` returns for each key, in their order; `name` is for messages.

        Raises ScorerError after the last attempt of a key.
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
            except (Exception, SystemExit, _Late) as error:
                wait = self._wait(name(key), attempt, error, timeout)
            time.sleep(wait)
            attempt += 1

    def _wait(self, name: str, attempt: int, error: BaseException, timeout: float) -> float:
        """Seconds until the next attempt. Raises ScorerError if there is none."""
        reason = f"{type(error).__name__}: {_without_secrets(' '.join(str(error).split()))[:200]}"
        if isinstance(error, _Late):
            reason = f"no result within {timeout:g} s (scorer_timeout)"
        if attempt >= self.retries:
            count = f" {attempt + 1} times" if attempt else ""
            raise ScorerError(f"{name} failed{count}: {reason}") from error
        wait: float = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
        log.warning("%s failed: %s; trying again in %g s", name, reason, wait)
        return wait


def _without_secrets(text: str) -> str:
    """Without what may be a key in an address: what stands before an @ and in a query."""
    return _QUERY.sub(r"\1?***", _LOGIN.sub("//***@", text))


@dataclass(frozen=True)
class _Raised:
    error: BaseException


@dataclass
class _Calls(Generic[K, T]):
    """Calls in threads, so many at a time."""

    work: Callable[[K], T]
    timeout: float
    concurrency: int
    waiting: deque[tuple[float, K, int]]
    """The time from which it may run, the key, and how many attempts have failed."""
    _running: dict[int, tuple[float, K, int]] = field(default_factory=dict)
    """By the number of the call: when it is late, the key, and the attempts before."""
    _ended: "queue.Queue[tuple[int, T | _Raised]]" = field(default_factory=queue.Queue)
    _started: int = 0

    def next(self) -> tuple[K, int, T | _Raised]:
        """The next call that ends or is late: its key, attempts before it, and what it gave."""
        while True:
            now = time.monotonic()
            self._start(now)
            for number, (end, key, attempt) in self._running.items():
                if now >= end:
                    del self._running[number]
                    return key, attempt, _Raised(_Late())
            times = [end for end, _, _ in self._running.values()]
            if len(self._running) < self.concurrency:
                times += [ready for ready, _, _ in self.waiting]
            try:
                number, outcome = self._ended.get(timeout=max(0.0, min(times) - now))
            except queue.Empty:
                continue
            if number in self._running:  # else it was late, and has been abandoned
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
        except BaseException as error:  # it belongs to the thread that waits
            outcome = _Raised(error)
        self._ended.put((number, outcome))


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise _Late in the main thread when the time is over, also if the code swallows it."""
    rings: list[bool] = []
    ended: list[bool] = []

    def ring(number: int, frame: FrameType | None) -> None:
        if not ended:
            rings.append(True)
            raise _Late

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        try:
            yield
        finally:
            ended.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # an alarm of somebody else's goes on
            rest = max(left - (time.monotonic() - started), 0.001)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)
    if rings:
        raise _Late
