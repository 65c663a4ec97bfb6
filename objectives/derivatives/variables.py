"""The parameters of a tensor's merge that have a derivative, and the gradient of a recipe.

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
"""mergekit's parameter by which the sum of the deltas is multiplied."""


@dataclass(frozen=True)
class Variable:
    """One parameter of a tensor's merge."""

    name: str
    """The name of the parameter, or `lambda`."""
    model: int | None = None
    """The model's index in the recipe; None for `lambda` and for a shared parameter."""


@dataclass
class RecipeGradient:
    """The derivative of a loss with respect to every value of a recipe."""

    values: dict[str, Doubles]
    """The derivatives with respect to each per-model parameter, [K, M, F]."""
    shared: dict[str, Doubles] = field(default_factory=dict)
    """The derivatives with respect to each shared parameter, [K, F]."""
    scale: float = 0.0
    """The derivative with respect to `lambda`."""

    @classmethod
    def zero(cls, recipe: MergeRecipe) -> "RecipeGradient":
        return cls(
            {name: np.zeros(np.shape(values)) for name, values in recipe.values.items()},
            {name: np.zeros(np.shape(values)) for name, values in recipe.shared.items()},
        )

    def accumulate(
        self, recipe: MergeRecipe, tensor: str, layer: int, partials: Mapping[Variable, float]
    ) -> None:
        """Add one tensor's derivatives, by the transpose of `values_at` and `shared_at`."""
        for variable, partial in partials.items():
            if variable.name == SCALE:
                self.scale += partial
            elif variable.model is None:
                shared_KF = self.shared[variable.name]
                for k, f, share in interpolation_weights(recipe, len(shared_KF), tensor, layer):
                    shared_KF[k, f] += share * partial
            else:
                values_KMF = self.values[variable.name]
                for k, f, share in interpolation_weights(recipe, len(values_KMF), tensor, layer):
                    values_KMF[k, variable.model, f] += share * partial


def interpolation_weights(
    recipe: MergeRecipe, knots: int, tensor: str, layer: int
) -> Iterator[tuple[int, int, float]]:
    """Yield the knots and filters that determine a tensor's parameters, with their weights."""
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


def variables(recipe: MergeRecipe, steps: Mapping[str, float]) -> tuple[Variable, ...]:
    """Return the parameters of a tensor that have a step and a useful derivative."""
    method, chosen = METHODS[recipe.method], []
    for name in recipe.values:
        if name in steps and not _reason(recipe.method, name):
            excluded = recipe.base if method.has_lambda else None  # its delta is 0
            chosen += [
                Variable(name, m) for m, label in enumerate(recipe.models) if label != excluded
            ]
    for name in recipe.shared:
        if name in steps and not _reason(recipe.method, name):
            chosen.append(Variable(name))
    if SCALE in steps and method.has_lambda:
        chosen.append(Variable(SCALE))
    return tuple(chosen)


def without_derivative(method: str, names: Iterable[str]) -> dict[str, str]:
    """Return the parameters that have no useful derivative, each with the reason.

    Booleans are never searched and are not listed. The `t` of a pairwise method has a derivative
    for a fixed pair of models: that of the other models is 0.
    """
    reasons = {name: _reason(method, name) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(method: str, name: str) -> str:
    parameter = METHODS[method].parameter(name)
    return "" if parameter is None else parameter.no_derivative


def constant_recipe(
    recipe: MergeRecipe, numbers: Mapping[str, tuple[float, ...]], shared: Mapping[str, float]
) -> MergeRecipe:
    """Return the recipe with the same parameters for every tensor."""
    return dataclasses.replace(
        recipe,
        values={name: (tuple((value,) for value in row),) for name, row in numbers.items()},
        shared={name: ((value,),) for name, value in shared.items()},
        filters=(),
        smooth=False,
    )
