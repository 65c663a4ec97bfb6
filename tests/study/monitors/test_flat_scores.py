"""Tests of the warning about equal scores."""

import pytest
from optuna.trial import TrialState

from storage.trials import TrialRecord
from study.monitors.flat_scores import FlatScores, explanation, flat_scores


def record(
    number: int,
    scores: dict[str, float],
    baseline: bool = True,
    sampled: bool = False,
    state: TrialState = TrialState.COMPLETE,
) -> TrialRecord:
    attributes: dict[str, object] = {
        "tasks": scores,
        "result": {"asked": 5 if sampled else 20, "questions": 20},
    }
    if baseline:
        attributes |= {"baseline": f"model {number}", "kind": "parent"}
    value = sum(scores.values())
    return TrialRecord(number, number, state, {}, value, attributes)


@pytest.mark.parametrize(
    ("scores", "flat"),
    [
        ([0.0, 0.0, 0.0], True),
        ([0.25, 0.25, 0.25, 0.25], True),
        ([1.0, 1.0, 1.0], True),
        ([-1e6, -1e6, -1e6], True),
        ([0.25, 0.25], False),
        ([0.0, 0.0, 0.01], False),
        ([], False),
    ],
)
def test_scores_are_flat_if_all_are_equal(scores: list[float], flat: bool) -> None:
    assert bool(flat_scores({"one": scores, "other": [0.1, 0.2, 0.3]})) is flat


def test_the_explanation_is_one_line_with_every_task_and_the_likely_causes() -> None:
    zero = explanation({"words": 0.0, "numbers": 0.0})
    assert "all models and merges score 0 (words: 0; numbers: 0)" in zero
    equal = explanation({"words": 0.0, "numbers": 0.25})
    assert "equal scores" in equal
    assert "numbers: 0.25" in equal
    assert "too similar" in equal
    for text in (zero, equal):
        assert "\n" not in text
        for cause in ("prompt", "labels", "max_tokens", "end token", "scorer"):
            assert cause in text


def test_there_is_one_warning_for_each_task_after_all_baselines_are_scored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flat = FlatScores(4)
    records = [record(n, {"words": 0.0, "numbers": n / 10}) for n in range(4)]
    flat.on_trials(records[:3])
    assert not caplog.messages
    flat.on_trials(records)
    flat.on_trials([*records, record(4, {"words": 0.0, "numbers": 0.1}, baseline=False)])
    [line] = caplog.messages
    assert line.startswith("warning: so far all models and merges score 0 (words: 0)")


def test_sampled_and_failed_trials_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    records = [record(n, {"words": 0.5}) for n in range(3)]
    sampled = record(3, {"words": 0.4999}, baseline=False, sampled=True)
    failed = record(4, {}, baseline=False, state=TrialState.FAIL)
    FlatScores(3).on_trials([*records, sampled, failed])
    assert "words: 0.5" in caplog.text
    caplog.clear()
    FlatScores(3).on_trials([*records, record(5, {"words": 0.25}, baseline=False)])
    assert not caplog.messages
