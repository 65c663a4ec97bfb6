"""The numbers of one tensor's merge: which have a derivative, and how they go back to a recipe.

K: knots, M: models, F: filters and the rest, as in recipe.py.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe

Doubles = NDArray[np.float64]
SCALE = "lambda"
"""mergekit's parameter that multiplies the mixed delta of a whole merge."""


@dataclass(frozen=True)
class Slot:
    """One number of a tensor's merge."""

    name: str
    """Of the parameter, or `lambda`."""
    model: int | None = None
    """Among the recipe's models; None for a number that they share."""


@dataclass
class RecipeGradient:
    """The derivative of a loss by every value of a recipe, in the shapes of the recipe."""

    values: dict[str, Doubles]
    """[K, M, F] for each parameter of the models."""
    shared: dict[str, Doubles] = field(default_factory=dict)
    """[K, F] for each shared parameter."""
    scale: float = 0.0

    @classmethod
    def zero(cls, recipe: MergeRecipe) -> "RecipeGradient":
        return cls(
            {name: np.zeros(np.shape(values)) for name, values in recipe.values.items()},
            {name: np.zeros(np.shape(values)) for name, values in recipe.shared.items()},
        )

    def accumulate(
        self, recipe: MergeRecipe, tensor: str, layer: int, partials: Mapping[Slot, float]
    ) -> None:
        """Add one tensor's derivatives: the transpose of `MergeRecipe.numbers_at`."""
        for slot, partial in partials.items():
            if slot.name == SCALE:
                self.scale += partial
            elif slot.model is None:
                shared_KF = self.shared[slot.name]
                for k, f, share in places(recipe, len(shared_KF), tensor, layer):
                    shared_KF[k, f] += share * partial
            else:
                values_KMF = self.values[slot.name]
                for k, f, share in places(recipe, len(values_KMF), tensor, layer):
                    values_KMF[k, slot.model, f] += share * partial


def places(
    recipe: MergeRecipe, knots: int, tensor: str, layer: int
) -> Iterator[tuple[int, int, float]]:
    """The knots and filters whose values a tensor's numbers are, with their shares in them."""
    f = next((i for i, text in enumerate(recipe.filters) if text in tensor), len(recipe.filters))
    if not recipe.smooth:
        inside = min(max(layer, 0), recipe.num_layers - 1)
        yield inside * knots // recipe.num_layers, f, 1.0
        return
    place = recipe._depth(layer) * (knots - 1)
    left = int(place)
    yield left, f, 1 - (place - left)
    if place > left:
        yield min(left + 1, knots - 1), f, place - left


def slots(recipe: MergeRecipe, steps: Mapping[str, float]) -> tuple[Slot, ...]:
    """The numbers of a tensor that a loss is differentiated by: those with a step."""
    method, chosen = METHODS[recipe.method], []
    for name in recipe.values:
        if name in steps and not _refused(recipe.method, name):
            idle = recipe.base if method.has_lambda else None  # its delta is nothing
            chosen += [Slot(name, m) for m, label in enumerate(recipe.models) if label != idle]
    for name in recipe.shared:
        if name in steps and not _refused(recipe.method, name):
            chosen.append(Slot(name))
    if SCALE in steps and method.has_lambda:
        chosen.append(Slot(SCALE))
    return tuple(chosen)


def refused(method: str, names: Iterable[str]) -> dict[str, str]:
    """Return the parameters that have no useful derivative, each with the reason.

    Truth values have none in any method. The `t` of a pairwise method has one while the pair of
    models stays the same: models outside the top two get a derivative of 0.
    """
    reasons = {name: _refused(method, name) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _refused(method: str, name: str) -> str:
    parameter = METHODS[method].parameter(name)
    return "" if parameter is None else parameter.no_derivative


def one_tensor(
    recipe: MergeRecipe, numbers: Mapping[str, tuple[float, ...]], shared: Mapping[str, float]
) -> MergeRecipe:
    """A recipe that gives every tensor these numbers."""
    return dataclasses.replace(
        recipe,
        values={name: (tuple((value,) for value in row),) for name, row in numbers.items()},
        shared={name: ((value,),) for name, value in shared.items()},
        filters=(),
        smooth=False,
    )
