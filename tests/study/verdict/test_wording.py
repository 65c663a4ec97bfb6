"""Tests of the text of a verdict."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from storage.trials import TrialRecord
from study.cli.invocation import invocation
from study.search.contenders import Contender
from study.verdict.comparison import Comparison
from study.verdict.wording import (
    about,
    decision,
    inconclusive_text,
    pending_text,
    verdict_text,
)


def merge(role: Any, name: str, baseline: str | None = None) -> Contender:
    attributes = {"baseline": baseline} if baseline else {}
    return Contender(role, name, TrialRecord(1, 7, TrialState.COMPLETE, {}, 0.5, attributes))


def comparison(
    reference: str, difference: float, margin: float, more: int | None = None
) -> Comparison:
    return Comparison("mean of the top 20", reference, difference, margin / 2.5, margin, more, {})


TOP = merge("top", "mean of the top 20")
UNIFORM = comparison("best uniform 0.70", 0.03, 0.011)


def text_of(*comparisons: Comparison, final: Contender = TOP, best: str = "parent a") -> str:
    return verdict_text(final, comparisons, best)


def test_a_winner_is_better_than_the_best_parent_and_the_best_uniform_merge() -> None:
    assert text_of(
        comparison("parent a", 0.018, 0.011), comparison("parent b", 0.05, 0.011), UNIFORM
    ) == (
        "The mean of the top 20 (trial 7) is better than the best parent, a, by +1.8 ± 1.1 points "
        "(95%); it is better than the best uniform merge, by +3.0 ± 1.1 points (95%)."
    )


def test_an_undecided_comparison_has_the_number_of_additional_questions() -> None:
    close = comparison("best uniform 0.70", 0.004, 0.011, 12_345)
    assert text_of(comparison("parent a", 0.004, 0.011, 1234), close) == (
        "The mean of the top 20 (trial 7) is not shown to be better than the best parent, a "
        "(+0.4 ± 1.1 points, 95%): about 1,300 more held-out questions would be needed to decide; "
        "it is not shown to be better than the best uniform merge (+0.4 ± 1.1 points, 95%): about "
        "13,000 more held-out questions would be needed to decide."
    )


@pytest.mark.parametrize(
    ("difference", "how"),
    [(-0.004, "it scored lower (-0.4"), (0.0, "it scored the same (+0.0")],
)
def test_no_additional_questions_are_suggested_if_the_score_is_not_higher(
    difference: float, how: str
) -> None:
    text = text_of(comparison("parent a", difference, 0.011), UNIFORM)
    assert f"is not shown to be better than the best parent, a: {how} ± 1.1 points, 95%);" in text
    assert "needed" not in text


def test_the_best_parent_is_beaten_only_if_every_parent_is() -> None:
    """A parent whose interval includes zero may be the best one."""
    text = text_of(
        comparison("parent a", 0.02, 0.011), comparison("parent b", 0.022, 0.03, 400), UNIFORM
    )
    assert "is not shown to be better than parent b (+2.2 ± 3.0 points, 95%)" in text


def test_the_text_says_if_the_final_merge_is_a_uniform_merge() -> None:
    final = merge("uniform", "best uniform 0.70", "uniform 0.70")
    assert text_of(comparison("parent a", 0.018, 0.011), final=final) == (
        "The final merge, uniform 0.70, is a uniform merge: it needs no search, and no merge of "
        "the search scored higher on the held-out questions. It is better than the best parent, a, "
        "by +1.8 ± 1.1 points (95%)."
    )


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (0.02, "yes"),
        (0.01, "no: the interval includes 0"),
        (0.0, "no: the interval includes 0"),
        (-0.01, "no: the interval includes 0"),
        (-0.02, "no: it is shown to be worse"),
    ],
)
def test_a_decision_says_where_the_interval_lies(difference: float, words: str) -> None:
    assert decision(comparison("parent a", difference, 0.01)) == words


def test_without_enough_questions_there_is_no_verdict() -> None:
    text = inconclusive_text(TOP, {"choice": 5, "retrieval": 0}, 20)
    assert "(5 of choice and 0 of retrieval; every task needs at least 20)" in text
    assert "final merge is the mean of the top 20 (trial 7)" in text


def test_missing_scores_are_listed_with_the_command_that_adds_them() -> None:
    text = pending_text(Path("s.yaml"), ["a", "b", "c", "d"])
    command = invocation("report", ["s.yaml", "--score"])
    assert text == (
        f"No verdict yet. Not scored: a, b, c and 1 more. To score what is missing: {command}"
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "about 1"), (99, "about 99"), (101, "about 110"), (9999, "about 10,000")],
)
def test_counts_of_questions_have_two_digits(count: int, words: str) -> None:
    assert about(count) == words
