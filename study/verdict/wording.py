"""A verdict in words."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.search.contenders import Contender

from .comparison import LEVEL, Comparison

_SHARE = f"{LEVEL:.0%}"


def sentence(final: Contender, comparisons: Sequence[Comparison], best_parent: str) -> str:
    """What the final merge is better than: the best parent, and the best uniform merge.

    It is better than the best parent where it is shown to be better than each, since which of
    them is truly the best is not known.
    """
    parents = [c for c in comparisons if c.reference.startswith("parent ")]
    hardest = min(parents, key=lambda c: c.lower)
    if hardest.shown:
        hardest = next(c for c in parents if c.reference == best_parent)
    name = hardest.reference.removeprefix("parent ")
    the = f"the best parent, {name}" if hardest.reference == best_parent else f"parent {name}"
    first = _told(hardest, the)
    if final.role == "uniform":
        return (
            f"The final merge is a uniform one, {final.record.baseline}, which needs no search: no "
            f"merge of the search scores higher on the held-out questions. It is {first}."
        )
    uniform = [c for c in comparisons if c.reference.startswith("best uniform")]
    rest = "".join(f"; it is {_told(c, 'the best uniform merge')}" for c in uniform)
    return f"{_capital(_the(final))} is {first}{rest}."


def untold(final: Contender, few: Mapping[str, int], enough: int) -> str:
    """Where there are too few held-out questions."""
    listed = " and ".join(f"{count} of {task}" for task, count in few.items())
    return (
        f"Nothing can be told about which merge is better: held-out questions are {listed}, and at "
        f"least {enough} of every task are needed. The final merge is {_the(final)}, which is less "
        f"a matter of luck than the best trial; its search score is no verdict."
    )


def not_yet(config: Path, missing: Sequence[str]) -> str:
    """Where something that is compared is not scored."""
    listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
    return (
        f"No verdict yet; not scored: {listed}. python -m study.report {config} --score scores "
        "what can be scored."
    )


def points(difference: float, margin: float) -> str:
    """`+1.8 ± 1.1 points`: hundredths of the weighted score."""
    return f"{100 * difference:+.1f} ± {100 * margin:.1f} points"


def questions(count: int) -> str:
    """About so many, in two digits: `about 1,300`."""
    step = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return f"about {math.ceil(count / step) * step:,}"


def _told(c: Comparison, the: str) -> str:
    if c.shown:
        return f"better than {the}, by {points(c.difference, c.margin)} ({_SHARE})"
    shown = f"not shown to be better than {the} "
    interval = f"({points(c.difference, c.margin)}, {_SHARE})"
    if c.more is not None:
        return (
            f"{shown}{interval}: {questions(c.more)} more held-out questions would be needed to "
            "tell"
        )
    how = "lower" if c.difference < 0 else "the same"
    return f"{shown.rstrip()}: it scored {how} {interval}"


def _the(final: Contender) -> str:
    return f"the {final.label}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
