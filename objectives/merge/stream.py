"""A recipe and sources in, merged tensors out, one at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import masks, methods
from .recipe import MergeRecipe, Setting
from .sources import Sources, TensorInfo

DRAWS_KEPT = 1 << 30
"""Bytes of random draws kept between merges; beyond them draws are made anew each time."""


class MergeStream:
    """Merges recipe after recipe over the same sources. Holds one tensor of each model at a time.

    Random draws depend on nothing that a search changes, so small models keep theirs in memory.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._draws: dict[tuple[int, str, str], Tensor] = {}
        self._room = DRAWS_KEPT

    def tensors(self, recipe: MergeRecipe) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the merge with its name, in the recipe's dtype."""
        dtype = getattr(torch, recipe.dtype)
        for info in self.sources.layout:
            yield info.name, self._merge(recipe, info).to(dtype)

    def _merge(self, recipe: MergeRecipe, info: TensorInfo) -> Tensor:
        setting = recipe.at(info.name, info.layer)
        if recipe.method == "linear":
            tensors = [self.sources.read(model, info) for model in setting.models]
            return methods.linear(tensors, setting.weights, recipe.normalize)
        if recipe.method == "slerp":
            first, second = (self.sources.read(model, info) for model in setting.models)
            return methods.slerp(first, second, setting.t)
        return self._merge_deltas(recipe, setting, info)

    def _merge_deltas(self, recipe: MergeRecipe, setting: Setting, info: TensorInfo) -> Tensor:
        assert recipe.base is not None
        base = self.sources.read(recipe.base, info)
        deltas, weights = [], []
        for model, weight, density in zip(
            setting.models, setting.weights, setting.densities, strict=True
        ):
            if model == recipe.base:
                continue
            delta = self.sources.read(model, info) - base
            deltas.append(self._thin(recipe, delta, model, info.name, density))
            weights.append(weight)
        combine = methods.ties if recipe.method.endswith("ties") else methods.task_arithmetic
        return combine(base, deltas, weights, recipe.normalize, recipe.scale)

    def _thin(
        self, recipe: MergeRecipe, delta: Tensor, model: str, tensor: str, density: float
    ) -> Tensor:
        if recipe.method == "ties":
            return methods.trim(delta, density)
        if not recipe.method.startswith("dare") or density >= 1:
            return delta
        drawn = self._draw(recipe.mask_seed, model, tensor, delta)
        return methods.drop_and_rescale(delta, drawn < masks.threshold(density))

    def _draw(self, seed: int, model: str, tensor: str, like: Tensor) -> Tensor:
        place = (seed, model, tensor)
        if place not in self._draws:
            drawn = masks.draws(masks.key(*place), like.shape, like.device)
            if drawn.nbytes > self._room:
                return drawn
            self._room -= drawn.nbytes
            self._draws[place] = drawn
        return self._draws[place]
