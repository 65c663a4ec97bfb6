"""Tests of the verdict's statistics, on simulated answers and against scipy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from study.verdict.comparison import LEVEL, compare
from study.verdict.selection import highest
from tests.support.simulated_verdicts import simulated

Floats = NDArray[np.float64]


@pytest.mark.parametrize("counts", [(100, 40), (400, 100)])
def test_an_interval_contains_the_true_difference_in_95_of_100_studies(
    counts: tuple[int, int],
) -> None:
    shares = [0.72, 0.65]
    observed, _, margins = simulated(1, shares, 3000, counts, [(0, 1)])
    covered = np.abs(observed - (shares[0] - shares[1])) <= margins
    assert 0.93 <= covered.mean() <= 0.97


def test_the_intervals_of_a_reference_hold_simultaneously_in_95_of_100_studies() -> None:
    shares = [0.72, 0.71, 0.7, 0.65, 0.68, 0.6]
    pairs = [(c, r) for c in (0, 1, 2) for r in (3, 4, 5)]
    observed, _, margins = simulated(2, shares, 1500, (300, 100), pairs)
    truth = np.array([shares[c] - shares[r] for c, r in pairs])
    held = (np.abs(observed - truth) <= margins).reshape(-1, 3, 3)
    for simultaneous in held.all(axis=1).mean(axis=0):
        assert 0.93 <= simultaneous <= 0.97
    assert held.mean() > held.all(axis=1).mean()


@pytest.mark.parametrize(
    "references", [[0.7] * 4, [0.7, 0.66, 0.62, 0.5]], ids=["equal", "one is the best"]
)
def test_contenders_equal_to_the_best_reference_rarely_win(references: list[float]) -> None:
    """This holds although the contender was selected by its score on the same questions, and
    without a correction for the number of references."""
    pairs = [(c, r) for c in range(4) for r in range(4, 8)]
    shares = [0.7] * 4 + references
    observed, errors, margins = simulated(3, shares, 1500, (300, 100), pairs)
    best = observed.reshape(-1, 4, 4)[:, :, 0].argmax(axis=1)  # the highest score of all contenders
    chosen = np.arange(len(best)), best
    lower = (observed - margins).reshape(-1, 4, 4)[chosen]
    assert (lower > 0).all(axis=1).mean() <= 0.05  # shown to be better than every reference
    uncorrected = (observed - 1.96 * errors).reshape(-1, 4, 4)[chosen]
    assert (uncorrected[:, 0] > 0).mean() > 0.05, "the correction for the contenders is needed"


def test_a_lead_of_three_points_is_shown_in_a_third_of_the_studies() -> None:
    pairs = [(c, r) for c in range(4) for r in range(4, 8)]
    shares = [0.73] * 4 + [0.7] * 4
    observed, _, margins = simulated(4, shares, 400, (1100, 190), pairs)
    best = observed.reshape(-1, 4, 4)[:, :, 0].argmax(axis=1)
    lower = (observed - margins).reshape(-1, 4, 4)[np.arange(len(best)), best]
    assert (lower > 0).all(axis=1).mean() > 1 / 3


def right(seed: int, share: float, count: int = 200) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).random(count) < share).astype(np.float32)


def test_mcnemars_test_is_the_binomial_test_on_the_questions_that_differ() -> None:
    a, b = right(1, 0.75), right(2, 0.6)
    [comparison] = compare({"a": {"t": a}}, {"b": {"t": b}}, {"t": 1.0}, ["t"])
    gained, lost = int((a > b).sum()), int((a < b).sum())
    assert comparison.mcnemar_p["t"] == pytest.approx(binomtest(gained, gained + lost).pvalue)
    assert comparison.difference == pytest.approx((gained - lost) / 200)


def test_p_values_are_corrected_for_all_pairs_and_tasks() -> None:
    a = {"t": right(1, 0.75), "u": right(3, 0.75)}
    others = {
        name: {"t": right(n, 0.6), "u": right(n + 9, 0.7)} for n, name in enumerate("bcd", 20)
    }
    single = {
        (name, task): binomtest(
            int((a[task] > other[task]).sum()), int((a[task] != other[task]).sum())
        ).pvalue
        for name, other in others.items()
        for task in "tu"
    }
    corrected = {
        (c.reference, task): p
        for c in compare({"a": a}, others, {"t": 0.5, "u": 0.5}, ["t", "u"])
        for task, p in c.mcnemar_p.items()
    }
    ranked = sorted(single, key=lambda key: single[key])
    least = 0.0
    for left, key in zip(range(len(ranked), 0, -1), ranked, strict=True):
        least = max(least, min(1.0, left * single[key]))
        assert corrected[key] == pytest.approx(least)


def test_a_higher_score_in_a_minimised_task_lowers_the_difference() -> None:
    many, few = {"t": right(1, 0.8)}, {"t": right(1, 0.3)}
    [down] = compare({"m": few}, {"p": many}, {"t": -1.0})
    [up] = compare({"m": many}, {"p": few}, {"t": 1.0})
    assert down.is_better
    assert down.difference == pytest.approx(up.difference)
    [worse] = compare({"m": many}, {"p": few}, {"t": -1.0})
    assert worse.difference < 0
    assert worse.more_questions is None


def test_the_additional_questions_would_show_the_difference() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.random((2, 400)) < [[0.72], [0.68]]).astype(np.float32)
    [comparison] = compare({"a": {"t": a}}, {"b": {"t": b}}, {"t": 1.0})
    assert not comparison.is_better
    assert comparison.more_questions is not None
    ratio = (400 + comparison.more_questions) / 400
    expected = comparison.difference / (
        comparison.error / ratio**0.5
    )  # in standard errors, with the additional questions
    assert norm.sf(norm.isf((1 - LEVEL) / 2) - expected) == pytest.approx(0.8, abs=0.03)


def test_a_merge_with_the_same_answers_is_not_better() -> None:
    same = {"t": right(1, 0.7)}
    [comparison] = compare({"a": same}, {"b": dict(same)}, {"t": 1.0}, ["t"])
    assert (comparison.difference, comparison.margin) == (0.0, 0.0)
    assert not comparison.is_better
    assert comparison.more_questions is None
    assert comparison.mcnemar_p == {"t": 1.0}


def test_a_merge_is_not_compared_with_itself() -> None:
    models = {name: {"t": right(n, 0.7)} for n, name in enumerate("abc")}
    comparisons = compare(
        {"a": models["a"], "b": models["b"]}, {"b": models["b"], "c": models["c"]}, {"t": 1.0}
    )
    assert [(c.contender, c.reference) for c in comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_first_of_several_equal_values_is_the_highest() -> None:
    assert highest({"mean": 0.5, "top": 0.6, "best": 0.6}) == "top"


def test_a_comparison_is_reproducible() -> None:
    a, b = {"t": right(1, 0.75)}, {"t": right(2, 0.6)}
    assert compare({"a": a}, {"b": b}, {"t": 1.0}) == compare({"a": a}, {"b": b}, {"t": 1.0})
