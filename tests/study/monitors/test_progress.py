"""The progress line."""

import io
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from rich.console import Console

from storage.trials import TrialRecord
from study.cli.text import duration
from study.monitors.progress import Progress
from study.search.state import best_search


@pytest.fixture(autouse=True)
def two_seconds_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))


def record(number: int) -> TrialRecord:
    result = {"asked": 1_100, "questions": 4_400, "error": 0.0123}
    attributes = {"tasks": {"t": 0.5}, "result": result, "slot": number, "generation": 0}
    value = 0.5 + number / 1_000
    return TrialRecord(number, number, TrialState.COMPLETE, {}, value, attributes)


def baseline(number: int) -> TrialRecord:
    attributes = {"baseline": f"uniform {number}", "kind": "uniform", "result": {"asked": 4_400}}
    return TrialRecord(number, number, TrialState.COMPLETE, {}, 0.4, attributes)


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width)


def lines(progress: Progress, counts: Sequence[int]) -> list[str]:
    """Return the line after each of these numbers of trials."""
    shown = []
    with progress:
        for count in counts:
            progress.on_trials([record(n) for n in range(count)])
            shown.append(progress._line)
    return shown


def test_the_line_has_the_best_score_the_questions_and_the_remaining_time() -> None:
    progress = Progress(terminal(200), 40, 4)
    *_, last = lines(progress, [1, 2, 6])
    assert last == (
        "trial 6/40  generation 1  highest score 0.505 ± 0.024  6,600 questions  0.80 s/trial  "
        "27 s left"
    )


def test_the_score_on_the_line_never_falls_although_trials_are_ranked_by_another_number() -> None:
    """Here the best trial is the one with the lowest score."""
    progress = Progress(terminal(200), 40, 4)
    scores = []
    with progress:
        ranked: list[TrialRecord] = []
        for number, (value, objective) in enumerate([(0.7, 0.1), (0.6, 0.2), (0.5, 0.3)]):
            attributes = {**record(number).attributes, "result": {"objective": objective}}
            ranked.append(replace(record(number), value=value, attributes=attributes))
            progress.on_trials(ranked)
            scores.append(progress._line.partition("highest score ")[2].split()[0])
    assert best_search(ranked) == ranked[-1]
    assert scores == ["0.700"] * 3


def test_several_workers_are_counted() -> None:
    progress = Progress(terminal(200), 40, 4, lambda: 3)
    assert "  3 workers  " in lines(progress, [1, 2])[-1]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_line_fits_the_terminal_and_keeps_what_matters(width: int) -> None:
    *_, last = lines(Progress(terminal(width), 4_000, 15, lambda: 8), [1, 2, 1_000])
    assert len(last) <= max(width, 60)
    assert last.startswith("trial 1000/4000  ")
    assert "highest score 1.499 ± 0.024" in last
    assert last.endswith(" left")
    assert ("8 workers" in last) == (width > 60)


def test_the_time_of_baselines_does_not_enter_the_pace_of_trials() -> None:
    progress = Progress(terminal(200), 40, 4)
    baselines = [baseline(n) for n in range(6)]
    with progress:
        for count in range(1, 7):
            progress.on_trials(baselines[:count])
        assert progress._line == "baseline 6  2.00 s/trial"
        for count in range(1, 4):
            progress.on_trials([*baselines, *(record(n + 6) for n in range(count))])
            assert f"trial {count}/40" in progress._line
            assert "  2.00 s/trial  " in progress._line
            assert progress._line.endswith(f"  {duration(2 * (40 - count))} left")


def test_no_time_is_left_of_a_complete_search_whose_final_merges_are_still_scored() -> None:
    *_, last = lines(Progress(terminal(200), 6, 4), [1, 2, 6])
    assert last.startswith("trial 6/6")
    assert "left" not in last


def test_without_a_terminal_a_line_is_logged_once_a_generation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []
    progress = Progress(Console(file=io.StringIO()), 40, 4, lambda: len(asked.append(1) or asked))
    with caplog.at_level("INFO"), progress:
        for count in range(1, 13):
            progress.on_trials([record(n) for n in range(count)])
    assert [r.message.split("  ")[0] for r in caplog.records] == [
        "trial 4/40",
        "trial 8/40",
        "trial 12/40",
    ]
    assert len(asked) == 3, "the workers are counted for a line that is logged, not for each trial"
