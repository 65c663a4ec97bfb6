"""A task's own scoring code that fails, hangs or waits."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from objectives.errors import ScorerError
from objectives.tasks import scorer_calls as scorer
from objectives.tasks.scorer_calls import Scoring

KEYS = list(range(12))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(scorer, "_ALARM_INTERVAL", 0.05)


@pytest.fixture
def parting() -> Iterator[threading.Event]:
    """An event that is set at the end of the test, so that threads waiting for it end."""
    event = threading.Event()
    yield event
    event.set()


def name(key: int) -> str:
    return f"document {key}"


@pytest.mark.parametrize("concurrency", [1, 4, 50])
def test_results_are_in_the_order_of_the_keys(concurrency: int) -> None:
    results = Scoring(concurrency).each(KEYS, name, lambda key: key * key)
    assert list(results.items()) == [(key, key * key) for key in KEYS]


def test_the_given_number_of_calls_runs_concurrently() -> None:
    barrier = threading.Barrier(3, timeout=20)
    running, most = 0, 0
    lock = threading.Lock()

    def work(key: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1
        return key

    assert Scoring(3).each(KEYS, name, work)
    assert most == 3


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_failed_call_is_retried_with_growing_waits(
    concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    failures = dict.fromkeys(KEYS, 0)

    def work(key: int) -> int:
        if key % 5 == 1 and failures[key] < 3:
            failures[key] += 1
            raise ConnectionError("the judge is away")
        return key

    assert Scoring(concurrency, retries=3).each(KEYS, name, work) == {key: key for key in KEYS}
    assert failures[6] == 3
    lines = [message for message in caplog.messages if message.startswith("document 6 ")]
    waits = [float(line.split("retrying in ")[1].split()[0]) for line in lines]
    assert waits == pytest.approx([0.01, 0.02, 0.04])
    assert "ConnectionError: the judge is away" in lines[0]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "fault", [ValueError("oh\ndear"), SystemExit(0), MemoryError(), RecursionError()]
)
def test_the_last_failure_names_the_document_and_the_cause(
    concurrency: int, fault: BaseException
) -> None:
    def work(key: int) -> int:
        if key == 7:
            raise fault
        return key

    cause = f"{type(fault).__name__}: {' '.join(str(fault).split())}"
    with pytest.raises(ScorerError, match=f"^document 7 failed 3 times: {re.escape(cause)}$"):
        Scoring(concurrency, retries=2).each(KEYS, name, work)
    with pytest.raises(ScorerError, match=f"^document 7 failed: {re.escape(cause)}$"):
        Scoring(concurrency, retries=0).each(KEYS, name, work)


def sleep() -> None:
    time.sleep(600)


def loop() -> None:
    while True:
        pass


def backtrack() -> None:
    re.match(r"(a|a)*$", "a" * 60 + "b")


def swallow() -> None:
    with contextlib.suppress(Exception):
        time.sleep(600)


def swallow_all() -> None:
    with contextlib.suppress(BaseException):
        time.sleep(600)


@pytest.mark.parametrize("hang", [sleep, loop, backtrack, swallow, swallow_all])
def test_a_hanging_call_is_interrupted_and_not_scored(hang: Callable[[], None]) -> None:
    calls = []

    def work(key: int) -> int:
        if key == 2 and len(calls) < 2:
            calls.append(key)
            hang()
        return key

    assert Scoring(timeout=0.2, retries=2).each(KEYS, name, work) == {key: key for key in KEYS}
    assert calls == [2, 2]
    with pytest.raises(ScorerError, match=r"document 0 failed 2 times: no result within 0.2 s"):
        Scoring(timeout=0.2, retries=1).each(KEYS, name, lambda key: hang())


def test_a_hanging_thread_is_abandoned(parting: threading.Event) -> None:
    calls = []

    def work(key: int) -> int:
        if key == 2:
            calls.append(key)
            if len(calls) < 3:
                parting.wait()
        return key

    assert Scoring(4, timeout=0.5, retries=2).each(KEYS, name, work) == {key: key for key in KEYS}
    with pytest.raises(ScorerError, match=r"document 0 failed: no result within 0.1 s"):
        Scoring(4, timeout=0.1, retries=0).each([0], name, lambda key: parting.wait())
    assert Scoring(4).each([], name, work) == {}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_interrupt_is_raised_at_once(concurrency: int, parting: threading.Event) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Scoring(concurrency, timeout=600).each(KEYS, name, lambda key: parting.wait())
    timer.join()


def test_an_interrupt_ends_the_wait_for_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_FIRST_WAIT", 30.0)

    def fails(key: int) -> int:
        raise ValueError

    for concurrency in (1, 3):
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            Scoring(concurrency).each(KEYS, name, fails)
        timer.join()


def test_an_earlier_alarm_continues() -> None:
    rang: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _: rang.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        Scoring().each(KEYS, name, lambda key: key)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        while not rang:
            signal.pause()
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_a_scorer_may_be_called_in_another_thread() -> None:
    results: list[dict[int, int]] = []
    scoring = Scoring(timeout=20)
    thread = threading.Thread(
        target=lambda: results.append(scoring.each(KEYS, name, lambda key: -key))
    )
    thread.start()
    thread.join()
    assert results == [{key: -key for key in KEYS}]


@pytest.mark.parametrize(
    "text",
    [
        "HTTPError: 503 for url: https://judge.example/v1?key=Hidden77",
        "cannot connect to http://me:Hidden77@judge.example:80/v1?key=Hidden77&x=1",
        "Max retries exceeded with url: /v1/score?token=Hidden77 (Caused by X('Hidden'))",
    ],
)
def test_secrets_in_urls_are_masked(text: str, caplog: pytest.LogCaptureFixture) -> None:
    def work(key: int) -> int:
        raise OSError(text)

    with pytest.raises(ScorerError) as caught:
        Scoring(retries=1).each([0], name, work)
    assert "Hidden77" not in str(caught.value) + caplog.text
    assert "judge.example" in str(caught.value) or "/v1/score" in str(caught.value)


def test_hanging_threads_do_not_keep_the_program_from_exiting() -> None:
    import subprocess

    code = (
        "import time\nfrom objectives.tasks.scorer_calls import Scoring\n"
        "from objectives.errors import ScorerError\n"
        "try:\n"
        "    Scoring(2, 0.2, 0).each([1], str, lambda key: time.sleep(600))\n"
        "except ScorerError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("1 failed: no result within 0.2 s")
