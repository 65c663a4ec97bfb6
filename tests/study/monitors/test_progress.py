"""The progress line."""

import io
import itertools
import time
from collections.abc import Sequence

import pytest
from optuna.trial import TrialState
from rich.console import Console

from storage.trials import TrialRecord
from study.monitors.progress import Progress


@pytest.fixture(autouse=True)
def two_seconds_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))


def record(number: int) -> TrialRecord:
    result = {"asked": 1_100, "questions": 4_400, "error": 0.0123}
    attributes = {"tasks": {"t": 0.5}, "result": result, "slot": number, "generation": 0}
    value = 0.5 + number / 1_000
    return TrialRecord(number, number, TrialState.COMPLETE, {}, value, attributes)


def lines(progress: Progress, counts: Sequence[int]) -> list[str]:
    """Return the line after each of these numbers of trials."""
    shown = []
    with progress:
        for count in counts:
            progress.on_trials([record(n) for n in range(count)])
            shown.append(progress._line)
    return shown


def test_the_line_has_the_best_score_the_questions_and_the_remaining_time() -> None:
    progress = Progress(Console(file=io.StringIO()), 40, 4)
    *_, last = lines(progress, [1, 2, 6])
    assert last == (
        "trial 6/40  generation 1  best 0.505 ± 0.012  6,600 questions  0.80 s/trial  27 s left"
    )


def test_several_workers_are_counted() -> None:
    progress = Progress(Console(file=io.StringIO()), 40, 4, lambda: 3)
    assert "  3 workers  " in lines(progress, [1, 2])[-1]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_line_fits_the_terminal_and_keeps_what_matters(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    *_, last = lines(Progress(console, 4_000, 15, lambda: 8), [1, 2, 1_000])
    assert len(last) <= max(width, 60)
    assert last.startswith("trial 1000/4000  ")
    assert "best 1.499 ± 0.012" in last
    assert last.endswith(" left")
    assert ("8 workers" in last) == (width > 40)
