"""The points of a search space, and the baselines that every genome has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from objectives.merge.recipe import Recipe
from study.config.genome import Range


@dataclass(frozen=True)
class Choice:
    """A categorical parameter. Its value at a point of the space is the index of a label."""

    labels: tuple[str, ...]
    start: int
    """The index that the search starts at."""


Space: TypeAlias = Mapping[str, Range | Choice]
"""The parameters that are searched, by name."""


@dataclass(frozen=True)
class Baseline:
    """A merge that is scored but is not a trial of the search."""

    name: str
    kind: str
    """base, parent or uniform."""
    recipe: Recipe
    params: Mapping[str, float]
    """Its point in the search space, or the nearest one if it lies outside."""


def start_value(range_: Range) -> float:
    """Return the start of a range, or its middle."""
    return (range_.low + range_.high) / 2 if range_.start is None else range_.start


def ranges(space: Space) -> dict[str, Range]:
    """Return the parameters that are numbers."""
    return {name: r for name, r in space.items() if isinstance(r, Range)}


def choices(space: Space) -> dict[str, Choice]:
    """Return the categorical parameters."""
    return {name: c for name, c in space.items() if isinstance(c, Choice)}
