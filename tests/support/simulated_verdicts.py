"""Comparisons of simulated models with known accuracies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from study.verdict.comparison import max_quantiles, resampled

Floats = NDArray[np.float64]
WEIGHTS = (0.875, 0.125)


PAIRS = [(c, r) for c in range(4) for r in range(4, 8)]


_AT_ONCE = 400


def answers(rng: np.random.Generator, shares: Sequence[float], studies: int, count: int) -> Floats:
    """Return right and wrong answers, [S, model, Q]."""
    easy_SQ = rng.normal(size=(studies, 1, count))
    own = rng.normal(size=(studies, len(shares), count))
    ability = norm.ppf(np.array(shares))[None, :, None]
    return (0.8 * easy_SQ + 0.6 * own < ability).astype(np.float64)


def simulated(
    seed: int,
    shares: Sequence[float],
    studies: int,
    counts: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    resamples: int = 1000,
) -> tuple[Floats, Floats, Floats]:
    """Return weighted differences [S, P], their errors, and the half widths of their intervals.

    The studies share the numbers of the questions that the bootstrap draws.
    """
    rng = np.random.default_rng(seed)
    first, second = [i for i, _ in pairs], [j for _, j in pairs]
    gaps = []
    for count in counts:
        right = answers(rng, shares, studies, count)
        gaps.append((right[:, first] - right[:, second]).reshape(-1, count))
    observed, errors, drawn = resampled(gaps, WEIGHTS, resamples, seed)
    shape = (studies, len(pairs))
    observed, errors = observed.reshape(shape), errors.reshape(shape)
    groups = [[i for i, j in enumerate(second) if j == r] for r in sorted(set(second))]
    quantiles = max_quantiles(observed, errors, drawn.reshape(*shape, -1), groups)
    return observed, errors, quantiles * errors
