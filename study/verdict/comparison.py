"""Paired comparisons of merges with references, from their scores on the same questions.

Arrays in, numbers out: no engine, no database and no text. docs/verdict.md explains the method.
Q: held-out questions of one task, P: pairs of a contender and a reference, R: bootstrap resamples.
The arrays of `max_quantiles` may have leading axes before P, such as the studies of a simulation.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import zt_ind_solve_power

LEVEL, POWER = 0.95, 0.8
RESAMPLES = 10_000
_SEED = 0
_BATCH = 2_000_000
"""Question numbers to draw at a time, which bounds the memory of the bootstrap."""

Floats = NDArray[np.float64]
QuestionScores = Mapping[str, NDArray[np.float32]]
"""A model's scores by task, in the order of the task's questions."""


@dataclass(frozen=True)
class Comparison:
    """A contender compared with a reference on the same questions."""

    contender: str
    reference: str
    difference: float
    """Difference of the weighted scores; positive if the contender scored higher."""
    error: float
    """Standard error of the difference over questions."""
    margin: float
    """Half the width of the confidence interval. The intervals of all contenders with the same
    reference are simultaneous: with probability LEVEL, all of them contain the true difference."""
    more_questions: int | None
    """Approximate number of additional held-out questions with which a true difference of this size
    is significant with probability POWER; None if it is already significant or not positive."""
    mcnemar_p: Mapping[str, float]
    """p-value of McNemar's exact test by task of multiple choice, Holm-corrected over pairs and
    tasks."""

    @property
    def lower(self) -> float:
        """The lower end of the confidence interval."""
        return self.difference - self.margin

    @property
    def is_better(self) -> bool:
        """Whether the contender is significantly better: its interval is above zero."""
        return self.lower > 0

    @property
    def is_worse(self) -> bool:
        """Whether the contender is significantly worse: its interval is below zero."""
        return self.difference + self.margin < 0

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as it is written to verdict.json."""
        return {
            "candidate": self.contender,
            "reference": self.reference,
            "difference": self.difference,
            "error": self.error,
            "margin": self.margin,
            "shown": self.is_better,
            "more_questions": self.more_questions,
            "mcnemar_p": dict(self.mcnemar_p),
        }


def compare(
    contenders: Mapping[str, QuestionScores],
    references: Mapping[str, QuestionScores],
    weights: Mapping[str, float],
    choice: Collection[str] = (),
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Compare every contender with every reference but itself.

    The intervals of a reference are simultaneous over the contenders, so they also hold for a
    contender that was selected by these scores. A contender that is better than every one of
    several references may be called better than the best of them without a further correction
    (intersection-union test: Berger 1982). If a name is both a contender and a reference, it is the
    same merge. `weights` are the tasks' weights; `choice` names the multiple-choice tasks.
    """
    pairs = [(c, r) for c in contenders for r in references if c != r]
    if not pairs:
        return []
    tasks = list(weights)
    gaps = [
        np.array([contenders[c][t] - references[r][t] for c, r in pairs], dtype=np.float64)
        for t in tasks
    ]
    observed_P, errors_P, resampled_PR = resampled(gaps, list(weights.values()), resamples)
    groups = [[i for i, pair in enumerate(pairs) if pair[1] == r] for r in references]
    quantiles_P = max_quantiles(observed_P, errors_P, resampled_PR, groups)
    questions = sum(gap.shape[1] for gap in gaps)
    p = _mcnemar({t: gap for t, gap in zip(tasks, gaps, strict=True) if t in choice})
    return [
        Comparison(
            contender,
            reference,
            float(observed_P[i]),
            float(errors_P[i]),
            float(quantiles_P[i] * errors_P[i]),
            _more_questions(
                float(observed_P[i]), float(errors_P[i]), float(quantiles_P[i]), questions
            ),
            {task: values[i] for task, values in p.items()},
        )
        for i, (contender, reference) in enumerate(pairs)
    ]


def resampled(
    gaps: Sequence[Floats], weights: Sequence[float], resamples: int = RESAMPLES, seed: int = _SEED
) -> tuple[Floats, Floats, Floats]:
    """Return the weighted differences [P], their bootstrap standard errors [P] and their values in
    the resamples [P, R].

    `gaps` holds the difference of each question, [P, Q], by task. The bootstrap is stratified:
    questions are resampled within their task. All pairs share the resampled questions.
    """

    def statistic(*drawn: NDArray[np.int64], axis: int = -1) -> Floats:
        """Return the weighted differences [P, batch]; `drawn` holds the question numbers of each
        task, [batch, Q]."""
        parts = [
            weight * (gap @ _counts(numbers, gap.shape[1]).T / gap.shape[1])
            for weight, gap, numbers in zip(weights, gaps, drawn, strict=True)
        ]
        total: Floats = np.sum(parts, axis=0)
        return total

    numbers = [np.arange(gap.shape[1]) for gap in gaps]
    result = bootstrap(
        numbers,
        statistic,
        n_resamples=resamples,
        batch=max(1, _BATCH // sum(map(len, numbers))),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    observed = np.sum([w * g.mean(axis=1) for w, g in zip(weights, gaps, strict=True)], axis=0)
    return observed, result.standard_error, result.bootstrap_distribution


def max_quantiles(
    observed_P: Floats,
    errors_P: Floats,
    resampled_PR: Floats,
    groups: Sequence[Sequence[int]],
) -> Floats:
    """Return, for each pair, the LEVEL quantile of the largest studentised deviation in its group.

    This is the max-t correction (Westfall & Young 1993; Romano & Wolf 2005): the quantile times a
    pair's standard error is half the width of its confidence interval, and the intervals of a group
    are simultaneous. Every pair is in one of the groups.
    """
    deviations_PR = np.abs(resampled_PR - observed_P[..., None])
    scale_P = np.where(errors_P > 0, errors_P, np.inf)  # with an error of 0 no resample deviates
    t_PR = deviations_PR / scale_P[..., None]
    quantiles_P = np.zeros_like(observed_P)
    for group in filter(len, groups):
        largest_R = t_PR[..., group, :].max(axis=-2)
        quantile = np.quantile(largest_R, LEVEL, axis=-1, method="higher")
        quantiles_P[..., group] = quantile[..., None]
    return quantiles_P


def _counts(numbers: NDArray[np.int64], questions: int) -> Floats:
    """Return how often each question was drawn in each resample, [batch, Q]."""
    rows = np.atleast_2d(numbers)
    places = rows + questions * np.arange(len(rows))[:, None]
    counts = np.bincount(places.ravel(), minlength=questions * len(rows))
    return counts.reshape(len(rows), questions).astype(np.float64)


def _more_questions(difference: float, error: float, quantile: float, questions: int) -> int | None:
    """Return how many questions to add, in the current proportions of the tasks, so that a true
    difference of this size is significant after the correction with probability POWER."""
    if difference <= 0 or error == 0 or difference > quantile * error:
        return None
    deviation = error * questions**0.5
    needed = zt_ind_solve_power(
        effect_size=difference / deviation,
        alpha=2 * norm.sf(quantile),
        power=POWER,
        ratio=0,  # one sample, of differences
        alternative="two-sided",
    )
    return max(1, int(np.ceil(needed)) - questions)


def _mcnemar(gaps: Mapping[str, Floats]) -> dict[str, list[float]]:
    """Return the corrected p-value of each pair, by task; the scores must be 0 or 1."""
    raw = [
        float(mcnemar([[0, int((gap > 0).sum())], [int((gap < 0).sum()), 0]], exact=True).pvalue)
        for task_gaps in gaps.values()
        for gap in task_gaps
    ]
    if not raw:
        return {}
    corrected = multipletests(raw, method="holm")[1].reshape(len(gaps), -1)
    return {task: row.tolist() for task, row in zip(gaps, corrected, strict=True)}
