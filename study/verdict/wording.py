"""The verdict as text."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.cli.invocation import invocation
from study.search.contenders import Contender

from .comparison import LEVEL, Comparison

_CONFIDENCE = f"{LEVEL:.0%}"
_LISTED = 3
"""Names of unscored contenders that a sentence lists."""


def verdict_text(final: Contender, comparisons: Sequence[Comparison], best_parent: str) -> str:
    """Return whether the final merge is better than the best parent and the best uniform merge.

    It is called better than the best parent only if it is shown to be better than every parent,
    because it is not certain which of them is the best.
    """
    parents = [c for c in comparisons if c.reference.startswith("parent ")]
    closest = min(parents, key=lambda c: c.lower)
    if closest.is_better:
        closest = next(c for c in parents if c.reference == best_parent)
    name = closest.reference.removeprefix("parent ")
    parent = f"the best parent, {name}" if closest.reference == best_parent else f"parent {name}"
    result = _comparison_text(closest, parent)
    if final.role == "uniform":
        return (
            f"The final merge, {final.record.baseline}, is a uniform merge: it needs no search, "
            f"and no merge of the search scored higher on the held-out questions. It is {result}."
        )
    uniform = [c for c in comparisons if c.reference.startswith("best uniform")]
    rest = "".join(f"; it is {_comparison_text(c, 'the best uniform merge')}" for c in uniform)
    return f"The {final.label} is {result}{rest}."


def inconclusive_text(final: Contender, few: Mapping[str, int], enough: int) -> str:
    """Return the verdict of a study with too few held-out questions, `few` by task."""
    counts = " and ".join(f"{count} of {task}" for task, count in few.items())
    return (
        f"No verdict is possible: there are too few held-out questions ({counts}; every task needs "
        f"at least {enough}). The final merge is the {final.label}; its search score is not a "
        "verdict."
    )


def pending_text(config: Path, missing: Sequence[str]) -> str:
    """Return the verdict of a study whose contenders do not have all their scores."""
    more = len(missing) - _LISTED
    names = ", ".join(missing[:_LISTED]) + (f" and {more} more" if more > 0 else "")
    return (
        f"No verdict yet. Not scored: {names}. To score what is missing: "
        f"{invocation('report', [str(config), '--score'])}"
    )


def points(difference: float, margin: float) -> str:
    """Return `+1.8 ± 1.1 points`; a point is a hundredth of the weighted score."""
    return f"{100 * difference:+.1f} ± {100 * margin:.1f} points"


def decision(c: Comparison) -> str:
    """Return whether the contender is shown to be better than the reference, and if not, why."""
    if c.is_better:
        return "yes"
    return "no: it is shown to be worse" if c.is_worse else "no: the interval includes 0"


def about(count: int) -> str:
    """Return a count rounded up to two digits: `about 1,300`."""
    step = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return f"about {math.ceil(count / step) * step:,}"


def _comparison_text(c: Comparison, reference: str) -> str:
    difference = points(c.difference, c.margin)
    if c.is_better:
        return f"better than {reference}, by {difference} ({_CONFIDENCE})"
    if c.more_questions is not None:
        return (
            f"not shown to be better than {reference} ({difference}, {_CONFIDENCE}): "
            f"{about(c.more_questions)} more held-out questions would be needed to decide"
        )
    how = "lower" if c.difference < 0 else "the same"
    return f"not shown to be better than {reference}: it scored {how} ({difference}, {_CONFIDENCE})"
