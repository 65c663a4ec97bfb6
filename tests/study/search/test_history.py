"""Tests of the score history."""

from typing import Any

import pytest

from storage.trials import TrialRecord, TrialState
from study.monitors.dashboard_figures import figures
from study.search.history import BaselineScore, GenerationScores, ScoreHistory


def trial(number: int, value: float, **attributes: Any) -> TrialRecord:
    return TrialRecord(number, number, TrialState.COMPLETE, {}, value, attributes)


def search_trial(number: int, generation: int, slot: int, value: float) -> TrialRecord:
    tasks = {"choice": value} if number else {}
    return trial(number, value, generation=generation, slot=slot, tasks=tasks)


RECORDS = [
    trial(10, 0.1, kind="base", baseline="Model"),
    trial(11, 0.2, kind="parent", baseline="a"),
    trial(12, 0.3, kind="parent", baseline="b"),
    trial(13, 0.25, kind="uniform", baseline="uniform"),
    trial(14, 0.9, kind="candidate", candidate="CMA mean"),
    search_trial(3, 1, 0, 0.0),
    search_trial(2, 0, 1, 0.5),
    search_trial(0, 0, 0, 0.4),
    TrialRecord(5, 5, TrialState.RUNNING, {}, None, {"generation": 1, "slot": 1}),
]
HISTORY = ScoreHistory.of(RECORDS)


def test_trials_are_in_the_order_of_their_slots() -> None:
    assert HISTORY.values == [0.4, 0.5, 0.0]
    assert HISTORY.generations == [0, 0, 1]
    assert HISTORY.tasks == {"choice": [None, 0.5, 0.0]}
    assert HISTORY.best_so_far() == [0.4, 0.5, 0.5]


def test_the_highest_baseline_of_each_kind_is_a_level() -> None:
    assert HISTORY.levels() == {"base": 0.1, "best parent": 0.3, "best uniform": 0.25}
    only = ScoreHistory([0.1], [0], {}, [BaselineScore("parent", "a", 0.0)])
    assert only.levels() == {"best parent": 0.0}


def test_generations_summarise_their_trials() -> None:
    first, second = HISTORY.by_generation()
    assert first == GenerationScores(0, 0.5, pytest.approx(0.45), 0.4, {"choice": 0.5})
    assert second == GenerationScores(1, 0.0, 0.0, 0.0, {"choice": 0.0})


def test_the_json_marks_parents() -> None:
    assert HISTORY.to_dict()["baselines"] == {
        "Model": 0.1,
        "parent a": 0.2,
        "parent b": 0.3,
        "uniform": 0.25,
    }


def test_the_dashboard_draws_the_history() -> None:
    drawn = figures(RECORDS)
    best, population, tasks = drawn["best-so-far"], drawn["population"], drawn["tasks"]
    assert [list(line.y) for line in best.data[:2]] == [HISTORY.values, HISTORY.best_so_far()]
    assert [line.name for line in best.data[2:]] == list(HISTORY.levels())
    assert list(population.data[1].y) == [g.mean for g in HISTORY.by_generation()]
    assert list(tasks.data[0].y) == [0.5, 0.0]
