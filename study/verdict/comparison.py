"""Which of several merges is better than which model, told from answers to the same questions.

Arrays in, numbers out: no engine, no database, no words. docs/verdict.md says why it is done so.
Q: held-out questions of one task, P: pairs of a merge and what it is compared with, R: resamples.
Leading axes before P (studies of a simulation) are free.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
"""Drawn questions at a time, so that memory does not grow with the question sets."""

Floats = NDArray[np.float64]
Right = Mapping[str, NDArray[np.float32]]
"""Task to right_Q, in the order of the questions."""


@dataclass(frozen=True)
class Comparison:
    """One merge beside one reference, over the same questions."""

    contender: str
    reference: str
    difference: float
    """Of the weighted scores, above 0 where the merge is better."""
    error: float
    """Its standard error over questions."""
    margin: float
    """Half the width of its interval; all intervals of a verdict hold together at LEVEL."""
    more: int | None
    """About how many more held-out questions would show this difference; None where it is shown,
    or is none."""
    p: Mapping[str, float]
    """Of McNemar's exact test for each multiple-choice task, corrected for all pairs (Holm)."""

    @property
    def lower(self) -> float:
        return self.difference - self.margin

    @property
    def shown(self) -> bool:
        """Whether the merge is shown to be better."""
        return self.lower > 0


def choose(values: Mapping[str, float]) -> str:
    """The name of the highest value, of equals the first."""
    return max(values, key=lambda name: values[name])


def compare(
    contenders: Mapping[str, Right],
    references: Mapping[str, Right],
    weights: Mapping[str, float],
    choice: Collection[str] = (),
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Every contender beside every reference but itself; `choice` names multiple-choice tasks.

    The intervals are simultaneous, so they hold also for a contender that these very answers
    chose. A name that is both contender and reference is one merge.
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
    quantile = max_quantile(observed_P, errors_P, resampled_PR)
    questions = sum(gap.shape[1] for gap in gaps)
    p = _mcnemar({t: gap for t, gap in zip(tasks, gaps, strict=True) if t in choice})
    return [
        Comparison(
            contender,
            reference,
            float(observed_P[i]),
            float(errors_P[i]),
            float(quantile * errors_P[i]),
            _more(float(observed_P[i]), float(errors_P[i]), float(quantile), questions),
            {task: values[i] for task, values in p.items()},
        )
        for i, (contender, reference) in enumerate(pairs)
    ]


def resampled(
    gaps: Sequence[Floats], weights: Sequence[float], resamples: int = RESAMPLES, seed: int = _SEED
) -> tuple[Floats, Floats, Floats]:
    """Weighted differences of P pairs, their bootstrap standard errors, and their values in R
    resamples.

    `gaps` holds for each task the differences question by question, [P, Q]. Each task's questions
    are drawn anew among themselves (stratified), and the same ones for all pairs.
    """

    def statistic(*drawn: NDArray[np.int64], axis: int = -1) -> Floats:
        """`drawn` holds question numbers of each task, [batch, Q]; gives [P, batch]."""
        parts = [
            weight * (gap @ _counts(numbers, gap.shape[1]).T / gap.shape[1])
            for weight, gap, numbers in zip(weights, gaps, drawn, strict=True)
        ]
        total: Floats = np.sum(parts, axis=0)
        return total

    numbers = [np.arange(gap.shape[1]) for gap in gaps]
    found = bootstrap(
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
    return observed, found.standard_error, found.bootstrap_distribution


def max_quantile(observed_P: Floats, errors_P: Floats, resampled_PR: Floats) -> Floats:
    """The LEVEL quantile of the largest studentised deviation among the pairs: the max-t
    correction (Westfall & Young 1993; Romano & Wolf 2005). Times a pair's standard error it is
    the half width of an interval that holds together with all others."""
    deviations_PR = np.abs(resampled_PR - observed_P[..., None])
    scale_P = np.where(errors_P > 0, errors_P, np.inf)  # merges that answer alike deviate nowhere
    t_PR = deviations_PR / scale_P[..., None]
    quantile: Floats = np.quantile(t_PR.max(axis=-2), LEVEL, axis=-1, method="higher")
    return quantile


def _counts(numbers: NDArray[np.int64], questions: int) -> Floats:
    """How often each question was drawn in each resample, [batch, Q]."""
    rows = np.atleast_2d(numbers)
    places = rows + questions * np.arange(len(rows))[:, None]
    counts = np.bincount(places.ravel(), minlength=questions * len(rows))
    return counts.reshape(len(rows), questions).astype(np.float64)


def _more(difference: float, error: float, quantile: float, questions: int) -> int | None:
    """Questions to add, of the tasks in their present shares, for POWER to show a true difference
    of this size with the corrected interval."""
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
    """For each task the corrected p-value of each pair; questions are right or wrong."""
    raw = [
        float(mcnemar([[0, int((gap > 0).sum())], [int((gap < 0).sum()), 0]], exact=True).pvalue)
        for task_gaps in gaps.values()
        for gap in task_gaps
    ]
    if not raw:
        return {}
    corrected = multipletests(raw, method="holm")[1].reshape(len(gaps), -1)
    return {task: row.tolist() for task, row in zip(gaps, corrected, strict=True)}
