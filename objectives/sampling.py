"""Which questions to ask when not all are, and what a task's score is then: sampling without bias.

Q: questions of one task, S: those of them that were asked.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """Questions that were drawn, and what is needed to reckon with the rest."""

    asked_S: Whole
    """Their places among all questions, ascending."""
    chances_S: Floats
    """How likely each of them was to be drawn; above 0."""
    expected_Q: Floats
    """What each question was expected to score: the mean of earlier trials."""
    expected_soft_Q: Floats
    """The same for the probability of a right answer."""


@dataclass(frozen=True)
class Estimate:
    """A mean over all questions of a task, from those that were asked."""

    mean: float
    sampling_variance: float
    """Of the mean, about that of all the task's questions."""
    variance: float
    """Between the task's questions."""


def chances(importance_Q: Floats, costs_Q: Floats, budget: float) -> Floats:
    """How likely each question is to be drawn: in proportion to its importance, at most 1, and so
    that the expected cost is `budget` (or all of it, if that is less)."""
    certain = np.zeros(len(importance_Q), dtype=bool)
    if budget >= costs_Q.sum():
        return np.ones(len(importance_Q))
    while True:
        shares = np.where(certain, 0.0, importance_Q)
        if not shares.any():  # those that count for nothing are alike
            shares = np.where(certain, 0.0, 1.0)
        left = budget - costs_Q[certain].sum()
        drawn = left * shares / (shares * costs_Q).sum()
        above = (drawn >= 1) & ~certain
        if not above.any():
            return np.where(certain, 1.0, drawn)
        certain |= above


def draw(chances_Q: Floats, generator: np.random.Generator) -> Whole:
    """Places of the questions drawn: as many as the chances sum to, up to rounding.

    Systematic sampling in a random order (Madow 1949): each question is drawn with exactly its
    chance.
    """
    order = generator.permutation(len(chances_Q))
    ends = np.cumsum(chances_Q[order])
    points = np.arange(generator.random(), ends[-1], 1.0)
    picked = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
    return np.unique(picked)


def estimate(values_S: Floats, expected_Q: Floats, sample: Sample) -> Estimate:
    """The mean over all questions: what was expected, corrected by how the asked ones differ
    (difference estimator, Särndal, Swensson & Wretman 1992, 6.3; no bias whatever was expected).

    The variance is Hájek's for samples of fixed size (1964, section 8).
    """
    count, size = len(expected_Q), len(values_S)
    gaps_S = (values_S - expected_Q[sample.asked_S]) / sample.chances_S
    mean = float(expected_Q.mean() + gaps_S.sum() / count)
    left_S = 1 - sample.chances_S
    if size < 2:
        return Estimate(mean, math.inf, math.inf)
    middle = float((left_S * gaps_S).sum() / max(left_S.sum(), 1e-12))
    spread = float((left_S * (gaps_S - middle) ** 2).sum())
    weights_S = 1 / sample.chances_S
    average = float((weights_S * values_S).sum() / weights_S.sum())
    variance = float((weights_S * (values_S - average) ** 2).sum() / weights_S.sum())
    return Estimate(mean, spread * size / (size - 1) / count**2, variance * size / (size - 1))
