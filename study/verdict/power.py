"""The smallest lead over the best parent that the held-out questions of a study can show."""

import math

from scipy.stats import norm

from study.setup.setup import Setup

from .comparison import LEVEL, POWER

_DIFFERING = 1 / 3
"""The assumed share of questions that a merge and a parent answer differently: one right, one
wrong."""


def detectable_lead(setup: Setup, trials: int, population: int) -> float | None:
    """Return the true difference of the weighted scores of a merge and one parent that the verdict
    shows with probability POWER; None if there are no held-out questions or too few for a verdict.

    A merge that has to be better than several equal parents needs a larger lead. The correction for
    the number of contenders is Sidak's (1967), an upper bound of the verdict's.
    """
    if setup.held_out_warning or not setup.held_out.tasks:
        return None
    variance = math.fsum(
        task.weight**2 * _DIFFERING / len(task.questions)
        for task in setup.held_out.tasks
        if task.weight
    )
    models = [b for b in setup.genome.baselines() if b.kind != "uniform"]
    contenders = max(1, setup.rules.count_contenders(trials, population) - len(models))
    alone = LEVEL ** (1 / contenders)
    quantile = norm.isf((1 - alone) / 2) + norm.ppf(POWER)
    return float(quantile * math.sqrt(variance))
