"""Variants of a fused merge, each with one parameter a step above or a step below its value.

T: tensors, P: parameters that vary, M: models of the recipe without its base, S: subsets of the
models. An axis of size 2 before the last one holds the variant above and the one below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.merge import exact_sums as sums
from objectives.merge import masks, methods
from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from objectives.models.layout import TensorInfo

from .tallies import MaskKey, Table
from .variables import SCALE, Doubles, Variable


@dataclass(frozen=True)
class Variants:
    """The arguments of `kernels.contract` for all tensors of a merge."""

    numbers: NDArray[np.float32]
    """[T, 2 P, 3 M + 2]"""
    thresholds: NDArray[np.int32]
    """[T, 2 P, M]"""
    shares: NDArray[np.float32]
    """[T, 2 P, S]"""
    widths: Doubles
    """[T, P]: the distance between the two variants; 0 if the parameter cannot vary."""


def variants(
    recipe: MergeRecipe,
    infos: Sequence[TensorInfo],
    variables: Sequence[Variable],
    steps: Mapping[str, float],
    tables: Mapping[MaskKey, Table],
) -> Variants:
    """Return the variants of a merge by a fused method.

    The smallest magnitudes that TIES keeps are left at 1; the caller replaces them.
    """
    method = METHODS[recipe.method]
    models = [m for m, label in enumerate(recipe.models) if label != recipe.base]
    labels, T, P, M = [recipe.models[m] for m in models], len(infos), len(variables), len(models)
    rows = [recipe.values_at(info.name, info.layer) for info in infos]
    weights = _rows(rows, "weight", models, T, P)
    scale = np.full((T, P, 2), recipe.scale)
    numbers, thresholds = np.ones((T, P, 2, 3 * M + 2)), np.zeros((T, P, 2, M), np.int32)
    widths = np.zeros((T, P))
    for p, variable in enumerate(variables):
        if variable.name != "density":
            target = (
                scale[:, p] if variable.name == SCALE else weights[:, p, :, _at(models, variable)]
            )
            target += steps[variable.name] * np.array([1.0, -1.0])
            widths[:, p] = target[:, 0] - target[:, 1]
    numbers[..., :M], numbers[..., 3 * M + 1] = weights, scale
    numbers[..., 3 * M] = _divisors(weights, recipe.base is not None)
    for t, m in np.ndindex(T, M) if "density" in recipe.values else ():
        density = rows[t]["density"][models[m]]
        at = [
            p for p, variable in enumerate(variables) if variable == Variable("density", models[m])
        ]
        above, below = clamped_densities(density, steps.get("density", 0.0))
        widths[t, at] = above - below
        if method.drops:
            table = tables[recipe.mask_seed, labels[m], infos[t].name]
            center, *neighbors = (
                _threshold_and_factor(table, value) for value in (density, above, below)
            )
            thresholds[t, :, :, m], numbers[t, :, :, M + m] = center
            for p in at:
                thresholds[t, p, :, m], numbers[t, p, :, M + m] = zip(*neighbors, strict=True)
    shares = _shares(weights, recipe.normalize and method.elects)
    return Variants(
        numbers.reshape(T, 2 * P, -1).astype(np.float32),
        thresholds.reshape(T, 2 * P, -1),
        shares.reshape(T, 2 * P, -1),
        widths,
    )


def _rows(
    rows: Sequence[Mapping[str, tuple[float, ...]]], name: str, models: list[int], T: int, P: int
) -> Doubles:
    values_TM = np.array([[row[name][m] for m in models] for row in rows], np.float64)
    return np.broadcast_to(values_TM[:, None, None], (T, P, 2, len(models))).copy()


def _at(models: list[int], variable: Variable) -> int:
    assert variable.model is not None
    return models.index(variable.model)


def _divisors(weights: Doubles, has_base: bool) -> Doubles:
    total: Doubles = weights.sum(axis=-1)
    if not has_base:
        return total
    divided: Doubles = np.where(np.abs(total) >= 1e-8, total, methods.divisor((0.0,)))
    return divided


def clamped_densities(density: float, step: float) -> tuple[float, float]:
    """Return the densities a step above and a step below, clamped to 0 and 1."""
    return min(density + step, 1.0), max(density - step, 0.0)


def _threshold_and_factor(table: Table, density: float) -> tuple[int, float]:
    """Return the draw below which DARE keeps an element, and the factor that restores the norm."""
    sums_, quantum = table
    thresholds = masks.threshold(density)
    return thresholds, sums.ratio(int(sums_[-1]), int(sums_[thresholds]), quantum)


def _shares(weights: Doubles, normalized: bool) -> NDArray[np.float32]:
    """Return 1 / the sum of weights for each subset of models, as in fused.py; else ones."""
    *shape, M = weights.shape
    if not normalized:
        return np.ones((*shape, 1), np.float32)
    total = np.zeros((*shape, 2**M), np.float32)
    for m in range(M):
        agree = (np.arange(2**M) >> m & 1).astype(bool)
        total[..., agree] += weights[..., m : m + 1].astype(np.float32)
    return (1 / np.where(total == 0, 1, total)).astype(np.float32)
