"""A recipe and sources in, merged tensors out, one at a time."""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from . import masks, methods
from .recipe import MergeRecipe, Setting
from .sources import Sources, TensorInfo
from .stores import Files, Held, Store

log = logging.getLogger(__name__)

DRAWS_KEPT = 1 << 30
"""Bytes of random draws kept between merges; beyond them draws are made anew each time."""


class MergeStream:
    """Merges recipe after recipe over the same sources, a few tensors of each at a time.

    On a GPU the task-arithmetic family runs in kernels of its own, with the same bits as the
    reference arithmetic in methods.py. Random draws depend on nothing that a search changes, so
    the reference keeps those of small models in memory.
    """

    def __init__(self, sources: Sources, store: Store | None = None) -> None:
        self.sources = sources
        self._store = store or Files(sources)
        self._fused = None
        if self._store.device.type == "cuda":
            if importlib.util.find_spec("triton"):
                from . import fused

                self._covers = fused.covers
                self._fused = fused.Fused(self._store, sources.layout)
            else:
                log.warning("triton is not installed: merges take many times longer")
        self._draws: dict[tuple[int, str, str], Tensor] = {}
        self._room = DRAWS_KEPT

    def tensors(self, recipe: MergeRecipe) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the merge with its name, in the recipe's dtype."""
        if self._fused is not None and self._covers(recipe):
            yield from self._fused.tensors(recipe)
            return
        dtype = getattr(torch, recipe.dtype)
        settings = [recipe.at(info.name, info.layer) for info in self.sources.layout]
        for held, setting in zip(self._walk(recipe, settings), settings, strict=True):
            yield held[0].name, self._merge(recipe, setting, *held).to(dtype)

    def close(self) -> None:
        self._store.close()

    def _walk(self, recipe: MergeRecipe, settings: Sequence[Setting]) -> Iterator[Held]:
        base = [] if recipe.base is None else [recipe.base]
        return self._store.walk(
            (info, list(dict.fromkeys([*base, *setting.models])))
            for info, setting in zip(self.sources.layout, settings, strict=True)
        )

    def _merge(
        self, recipe: MergeRecipe, setting: Setting, info: TensorInfo, held: Mapping[str, Tensor]
    ) -> Tensor:
        if recipe.method == "linear":
            tensors = [held[model].float() for model in setting.models]
            return methods.linear(tensors, setting.weights, recipe.normalize)
        if recipe.method == "slerp":
            first, second = (held[model].float() for model in setting.models)
            return methods.slerp(first, second, setting.t)
        return self._merge_deltas(recipe, setting, info, held)

    def _merge_deltas(
        self, recipe: MergeRecipe, setting: Setting, info: TensorInfo, held: Mapping[str, Tensor]
    ) -> Tensor:
        assert recipe.base is not None
        base = held[recipe.base].float()
        deltas, weights = [], []
        for model, weight, density in zip(
            setting.models, setting.weights, setting.densities, strict=True
        ):
            if model == recipe.base:
                continue
            delta = held[model].float() - base
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
