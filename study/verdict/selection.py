"""Which contender becomes the final merge, which parent is the best, and what decides a tie."""

from collections.abc import Mapping, Sequence

from study.search.contenders import Role

from .scoreboard import ScoredContender

PREFERENCE: tuple[Role, ...] = ("mean", "top", "uniform", "best")
"""Roles that can become the final merge. If scores are equal, the earlier role wins: the less a
merge was selected by its search score, the less that score is due to chance."""


def highest(values: Mapping[str, float]) -> str:
    """Return the name with the highest value. A tie, which is exact equality, goes to the first."""
    return max(values, key=lambda name: values[name])


def final_merge(contenders: Sequence[ScoredContender]) -> ScoredContender:
    """Return the contender with the highest held-out score; PREFERENCE decides a tie."""
    by_name = {
        c.contender.name: c for role in PREFERENCE for c in contenders if c.contender.role == role
    }
    scores = {name: c.held_out.value for name, c in by_name.items() if c.held_out is not None}
    return by_name[highest(scores)]


def best_parent(contenders: Sequence[ScoredContender]) -> str:
    """Return the name of the parent with the highest held-out score; the first decides a tie."""
    return highest(
        {
            c.contender.name: c.held_out.value
            for c in contenders
            if c.contender.role == "parent" and c.held_out is not None
        }
    )
