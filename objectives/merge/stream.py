"""A recipe and sources in, merged tensors out, one at a time."""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from objectives.models.layout import TensorInfo
from objectives.models.sources import Sources

from . import masks, mergekit_methods, methods
from .catalogue import METHODS
from .recipe import MergeRecipe, Setting
from .stores import Files, Held, Store

log = logging.getLogger(__name__)

DRAWS_KEPT = 1 << 30
"""Bytes of random draws kept between merges; beyond them draws are made anew each time."""


class MergeStream:
    """Merges recipe after recipe over the same sources, a few tensors of each at a time.

    On a GPU the task-arithmetic family runs in kernels of its own, with the same bits as the
    reference arithmetic in methods.py; what is in neither is mergekit's. Random draws depend on
    nothing that a search changes, so those of small models are kept in memory.
    """

    def __init__(self, sources: Sources, store: Store | None = None) -> None:
        self.sources = sources
        self._store = store or Files(sources)
        self._fused = None
        if self._store.device.type == "cuda":
            if importlib.util.find_spec("triton"):
                from objectives.merge import fused

                self._covers = fused.covers
                self._fused = fused.Fused(self._store, sources.layout)
            else:
                log.warning("triton is not installed: merges take many times longer")
        self._draws: dict[tuple[int, str, str], Tensor] = {}
        self._room = DRAWS_KEPT

    def tensors(self, recipe: MergeRecipe) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the merge with its name, in the recipe's dtype. Raises MergeError."""
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
        method = METHODS[recipe.method]
        if not method.fused:
            draw = partial(self._drawn, recipe.mask_seed, info.name)
            return mergekit_methods.merge(recipe, info, held, draw)
        if method.pairwise:
            first, second = (held[model].float() for model in setting.models)
            return methods.slerp(first, second, setting.t)
        if method.base == "unused":
            tensors = [held[model].float() for model in setting.models]
            return methods.linear(tensors, setting.weights, recipe.normalize)
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
        combine = methods.ties if METHODS[recipe.method].elects else methods.task_arithmetic
        return combine(base, deltas, weights, recipe.normalize, recipe.scale)

    def _thin(
        self, recipe: MergeRecipe, delta: Tensor, model: str, tensor: str, density: float
    ) -> Tensor:
        method = METHODS[recipe.method]
        if method.trims:
            return methods.trim(delta, density)
        if not method.drops or density >= 1:
            return delta
        drawn = self._drawn(recipe.mask_seed, tensor, model, delta.shape, delta.device)
        return methods.drop_and_rescale(delta, drawn < masks.threshold(density))

    def _drawn(
        self, seed: int, tensor: str, name: str, shape: torch.Size, device: torch.device
    ) -> Tensor:
        """The draws of a tensor for one model, or whatever else they are named after."""
        place = (seed, name, tensor)
        if place not in self._draws:
            drawn = masks.draws(masks.key(*place), shape, device)
            if drawn.nbytes > self._room:
                return drawn
            self._room -= drawn.nbytes
            self._draws[place] = drawn
        return self._draws[place].view(shape)
