"""What the scores of a study say about the search and about the models, as sentences.

P: pairs of parents, Q: held-out questions of one task, G: generations.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import linregress

from study.search.history import ScoreHistory
from study.setup.setup import Setup

from .judge import Judgement
from .scoreboard import ScoredContender
from .wording import points

ALIKE = 0.95
"""The share of equal scores from which two parents are called alike."""
MIN_STALLED = 10
"""The minimum number of generations without a rise that is reported."""
_LEVEL = 0.05
_GRADIENT = (
    "search: {algorithm: gradient} finds better merges with as many questions on the models on "
    "which both were measured (docs/gradient.md)."
)


def advice(setup: Setup, judgement: Judgement, history: ScoreHistory) -> list[str]:
    """Return what a user should know before more trials, in sentences."""
    by_gradient = setup.rules.by_gradient
    means_G = [] if by_gradient else [g.mean for g in history.by_generation()]
    return sentences(judgement, means_G, not by_gradient and setup.config.gradient_applies)


def sentences(judgement: Judgement, means_G: Sequence[float], gradient_applies: bool) -> list[str]:
    """Return the advice.

    `means_G` are the mean search scores of the generations of CMA-ES. `gradient_applies` says
    whether a search by gradient is an alternative.
    """
    parents = [c for c in judgement.contenders if c.contender.role == "parent" and c.held_out]
    against = [c for c in judgement.against_final if c.reference.startswith("parent ")]
    has_gained = bool(against) and all(c.is_better for c in against)
    candidates = [_alike(parents), _interference(judgement)]
    candidates += [] if has_gained else _ensemble(judgement, parents)
    suggests_gradient = gradient_applies and bool(against) and not has_gained
    candidates += [_stalled(means_G), _GRADIENT if suggests_gradient else None]
    return [sentence for sentence in candidates if sentence is not None]


def at_bound_text(count: int, searched: int, merge: str) -> str:
    """Return the note that `count` of the searched parameters of a merge are at a bound."""
    return (
        f"{count} of {searched} parameters of {merge} are within 1% of a bound of their range. If "
        "these are many, a wider range in `space` may hold better merges."
    )


def stalled_since(means_G: Sequence[float]) -> int | None:
    """Return the first generation from which on the means have no significant upward trend.

    The trend is that of a linear regression (one-sided, 5%). Returns None if fewer than MIN_STALLED
    generations would remain.
    """
    for first in range(len(means_G) - MIN_STALLED + 1):
        rest = means_G[first:]
        trend = linregress(range(len(rest)), rest, alternative="greater")
        if not trend.pvalue < _LEVEL:
            return first
    return None


def _stalled(means_G: Sequence[float]) -> str | None:
    first = stalled_since(means_G)
    if first is None:
        return None
    since = f"since generation {first}, of {len(means_G)}," if first else "in any generation,"
    return (
        f"The scores have not risen beyond their noise {since} so more trials of this search are "
        "unlikely to help. More questions per trial (search.questions) reduce the noise; fewer "
        "parameters (layer_granularity) need fewer trials."
    )


def _alike(parents: Sequence[ScoredContender]) -> str | None:
    shares_P = []
    for one, other in itertools.combinations(parents, 2):
        assert one.held_out is not None
        assert other.held_out is not None
        equal = [
            one.held_out.tasks[name].scores_Q == task.scores_Q
            for name, task in other.held_out.tasks.items()
            if name in one.held_out.tasks
        ]
        shares_P.append(float(np.mean(np.concatenate(equal))) if equal else 0.0)
    if not shares_P or min(shares_P) < ALIKE:
        return None
    return (
        f"The parents score alike on {min(shares_P):.0%} of the held-out questions or more: they "
        "differ too little for a merge to gain much."
    )


def _ensemble(judgement: Judgement, parents: Sequence[ScoredContender]) -> list[str]:
    sentences = []
    for task, ensemble in judgement.ensemble.items():
        scores = [c.held_out.tasks[task] for c in parents if c.held_out is not None]
        best = max((score.mean for score in scores), default=-math.inf)
        if ensemble.score <= best:
            sentences.append(
                f"The parents' ensemble is not better than the best parent on {task} "
                f"({ensemble.score:.3f} and {best:.3f}): the parents may have little to add to "
                "each other there."
            )
    return sentences


def _interference(judgement: Judgement) -> str | None:
    uniform = {c.contender.name for c in judgement.contenders if c.contender.role == "uniform"}
    worse = [
        c
        for c in judgement.comparisons
        if c.contender in uniform and c.reference.startswith("parent ") and c.is_worse
    ]
    if not worse:
        return None
    widest = min(worse, key=lambda c: c.difference)
    return (
        f"The best uniform merge is worse than {widest.reference}, by "
        f"{points(widest.difference, widest.margin)}: the models interfere with each other. A "
        "merge of fewer models, or a search with parameters for each layer and part "
        "(layer_granularity, filters), may lose less."
    )
