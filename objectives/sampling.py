"""Draw a random sample of a task's questions, and estimate the task's score from it without bias.

Q: questions of one task, S: the questions of a sample.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """The questions to ask, and what the estimator needs to know about all questions."""

    asked_S: Integers
    """Indices into the task's questions, ascending."""
    probabilities_S: Floats
    """The inclusion probability of each question of the sample; above 0."""
    expected_Q: Floats
    """The expected score of each question: the mean of earlier trials."""
    expected_soft_Q: Floats
    """The expected probability of the correct answer, likewise."""


@dataclass(frozen=True)
class Estimate:
    """The estimated mean over all questions of a task."""

    mean: float
    sampling_variance: float
    """The variance of the mean that is caused by the sampling."""
    variance: float
    """The variance between the task's questions."""


def inclusion_probabilities(importance_Q: Floats, costs_Q: Floats, budget: float) -> Floats:
    """Return the inclusion probability of each question, [Q].

    The probabilities are proportional to `importance_Q` and at most 1. The expected cost of a
    sample is `budget`, or the cost of all questions if that is less.
    """
    certain = np.zeros(len(importance_Q), dtype=bool)
    if budget >= costs_Q.sum():
        return np.ones(len(importance_Q))
    while True:
        shares = np.where(certain, 0.0, importance_Q)
        if not shares.any():  # all other questions have the importance 0
            shares = np.where(certain, 0.0, 1.0)
        remaining = budget - costs_Q[certain].sum()
        probabilities = remaining * shares / (shares * costs_Q).sum()
        above = (probabilities >= 1) & ~certain
        if not above.any():
            return np.where(certain, 1.0, probabilities)
        certain |= above


def draw(probabilities_Q: Floats, generator: np.random.Generator) -> Integers:
    """Return the ascending indices of a random sample.

    Systematic sampling in a random order (Madow 1949): each question is included with exactly its
    probability, and the size is the sum of the probabilities, rounded up or down.
    """
    order = generator.permutation(len(probabilities_Q))
    ends = np.cumsum(probabilities_Q[order])
    points = np.arange(generator.random(), ends[-1], 1.0)
    drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
    return np.unique(drawn)


def estimate(values_S: Floats, expected_Q: Floats, sample: Sample) -> Estimate:
    """Return the mean over all questions, estimated from the values of a sample.

    The difference estimator (Särndal, Swensson & Wretman 1992, 6.3) corrects the mean of
    `expected_Q` by the sample's deviations from it. It is unbiased for any `expected_Q`. The
    variance is Hájek's for samples of fixed size (1964, section 8); infinite for a sample of one.
    """
    count, size = len(expected_Q), len(values_S)
    gaps_S = (values_S - expected_Q[sample.asked_S]) / sample.probabilities_S
    mean = float(expected_Q.mean() + gaps_S.sum() / count)
    complements_S = 1 - sample.probabilities_S
    if size < 2:
        return Estimate(mean, math.inf, math.inf)
    center = float((complements_S * gaps_S).sum() / max(complements_S.sum(), 1e-12))
    spread = float((complements_S * (gaps_S - center) ** 2).sum())
    weights_S = 1 / sample.probabilities_S
    average = float((weights_S * values_S).sum() / weights_S.sum())
    variance = float((weights_S * (values_S - average) ** 2).sum() / weights_S.sum())
    return Estimate(mean, spread * size / (size - 1) / count**2, variance * size / (size - 1))
