"""A verdict in words, from comparisons that are made up."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from storage.trials import TrialRecord
from study.search.contenders import Contender
from study.verdict.comparison import Comparison
from study.verdict.wording import not_yet, questions, sentence, untold


def merge(role: Any, name: str, baseline: str | None = None) -> Contender:
    attributes = {"baseline": baseline} if baseline else {}
    return Contender(role, name, TrialRecord(1, 7, TrialState.COMPLETE, {}, 0.5, attributes))


def beside(reference: str, difference: float, margin: float, more: int | None = None) -> Comparison:
    return Comparison("mean of the top 20", reference, difference, margin / 2.5, margin, more, {})


TOP = merge("top", "mean of the top 20")
UNIFORM = beside("best uniform 0.70", 0.03, 0.011)


def told(*comparisons: Comparison, final: Contender = TOP, best: str = "parent a") -> str:
    return sentence(final, comparisons, best)


def test_a_winner_is_better_than_the_best_parent_and_than_no_search() -> None:
    assert told(beside("parent a", 0.018, 0.011), beside("parent b", 0.05, 0.011), UNIFORM) == (
        "The mean of the top 20 (trial 7) is better than the best parent, a, by +1.8 ± 1.1 points "
        "(95%); it is better than the best uniform merge, by +3.0 ± 1.1 points (95%)."
    )


def test_what_is_not_shown_says_how_many_questions_are_wanting() -> None:
    close = beside("best uniform 0.70", 0.004, 0.011, 12_345)
    assert told(beside("parent a", 0.004, 0.011, 1234), close) == (
        "The mean of the top 20 (trial 7) is not shown to be better than the best parent, a "
        "(+0.4 ± 1.1 points, 95%): about 1,300 more held-out questions would be needed to tell; it "
        "is not shown to be better than the best uniform merge (+0.4 ± 1.1 points, 95%): about "
        "13,000 more held-out questions would be needed to tell."
    )


@pytest.mark.parametrize(
    ("difference", "how"), [(-0.004, "it scored lower (-0.4"), (0.0, "it scored the same (+0.0")]
)
def test_what_scored_no_higher_gets_no_number(difference: float, how: str) -> None:
    text = told(beside("parent a", difference, 0.011), UNIFORM)
    assert f"is not shown to be better than the best parent, a: {how} ± 1.1 points, 95%);" in text
    assert "needed" not in text


def test_the_best_parent_is_beaten_only_with_every_other() -> None:
    """Another parent may truly be the best, if it differs too much for an interval above zero."""
    text = told(beside("parent a", 0.02, 0.011), beside("parent b", 0.022, 0.03, 400), UNIFORM)
    assert "is not shown to be better than parent b (+2.2 ± 3.0 points, 95%)" in text


def test_a_uniform_merge_that_wins_is_called_what_it_is() -> None:
    final = merge("uniform", "best uniform 0.70", "uniform 0.70")
    assert told(beside("parent a", 0.018, 0.011), final=final) == (
        "The final merge is a uniform one, uniform 0.70, which needs no search: no merge of the "
        "search scores higher on the held-out questions. It is better than the best parent, a, by "
        "+1.8 ± 1.1 points (95%)."
    )


def test_nothing_is_told_without_questions() -> None:
    text = untold(TOP, {"choice": 5, "retrieval": 0}, 20)
    assert "held-out questions are 5 of choice and 0 of retrieval, and at least 20" in text
    assert "final merge is the mean of the top 20 (trial 7)" in text


def test_what_is_not_scored_is_listed_with_the_command_that_scores_it() -> None:
    text = not_yet(Path("s.yaml"), ["a", "b", "c", "d"])
    assert text == (
        "No verdict yet; not scored: a, b, c and 1 more. python -m study.report s.yaml --score "
        "scores what can be scored."
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "about 1"), (99, "about 99"), (101, "about 110"), (9999, "about 10,000")],
)
def test_numbers_of_questions_have_two_digits(count: int, words: str) -> None:
    assert questions(count) == words
