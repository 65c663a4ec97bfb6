"""Compute the merged tensors of a recipe, one at a time."""

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
from .stores import Files, Loaded, Store

log = logging.getLogger(__name__)

DRAWS_CACHE_BYTES = 1 << 30
"""The maximum size of the cache of random draws. Draws that do not fit are computed anew for each
merge."""


class MergeStream:
    """Computes the merged tensors of one recipe after another from the same sources.

    If the store is on a GPU and triton is installed, recipes that `fused.covers` accepts are
    computed by Triton kernels, whose results are bit-identical to those of methods.py. mergekit
    computes the methods that methods.py does not have. Random draws do not depend on the searched
    parameters, so up to DRAWS_CACHE_BYTES of them are cached.
    """

    def __init__(self, sources: Sources, store: Store | None = None) -> None:
        self.sources = sources
        self._store = store or Files(sources)
        self._fused = None
        if self._store.device.type == "cuda":
            if importlib.util.find_spec("triton"):
                from . import fused  # triton is installed and is slow to import

                self._covers = fused.covers
                self._fused = fused.Fused(self._store, sources.layout, sources.norm_tables)
            else:
                log.warning(
                    "triton is not installed: on the GPU, merges by %s take many times longer",
                    ", ".join(name for name, method in METHODS.items() if method.has_kernel),
                )
        self._draws: dict[tuple[int, str, str], Tensor] = {}
        self._room = DRAWS_CACHE_BYTES

    def tensors(self, recipe: MergeRecipe) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the value of each merged tensor, in the recipe's dtype.

        Raises MergeError.
        """
        if self._fused is not None and self._covers(recipe):
            yield from self._fused.tensors(recipe)
            return
        dtype = getattr(torch, recipe.dtype)
        settings = [recipe.at(info.name, info.layer) for info in self.sources.layout]
        for loaded, setting in zip(self._walk(recipe, settings), settings, strict=True):
            yield loaded[0].name, self._merge(recipe, setting, *loaded).to(dtype)

    def close(self) -> None:
        """Release the store's memory."""
        self._store.close()

    def _walk(self, recipe: MergeRecipe, settings: Sequence[Setting]) -> Iterator[Loaded]:
        base = [] if recipe.base is None else [recipe.base]
        return self._store.walk(
            (info, list(dict.fromkeys([*base, *setting.models])))
            for info, setting in zip(self.sources.layout, settings, strict=True)
        )

    def _merge(
        self,
        recipe: MergeRecipe,
        setting: Setting,
        info: TensorInfo,
        by_model: Mapping[str, Tensor],
    ) -> Tensor:
        method = METHODS[recipe.method]
        if not method.native:
            draw = partial(self._drawn, recipe.mask_seed, info.name)
            return mergekit_methods.merge(recipe, info, by_model, draw)
        if method.pairwise:
            first, second = (by_model[model].float() for model in setting.models)
            return methods.slerp(first, second, setting.t)
        if method.base == "unused":
            tensors = [by_model[model].float() for model in setting.models]
            return methods.linear(tensors, setting.weights, recipe.normalize)
        return self._merge_deltas(recipe, setting, info, by_model)

    def _merge_deltas(
        self,
        recipe: MergeRecipe,
        setting: Setting,
        info: TensorInfo,
        by_model: Mapping[str, Tensor],
    ) -> Tensor:
        assert recipe.base is not None
        base = by_model[recipe.base].float()
        deltas, weights = [], []
        for model, weight, density in zip(
            setting.models, setting.weights, setting.densities, strict=True
        ):
            if model == recipe.base:
                continue
            delta = by_model[model].float() - base
            deltas.append(self._sparsify(recipe, delta, model, info.name, density))
            weights.append(weight)
        combine = methods.ties if METHODS[recipe.method].elects else methods.task_arithmetic
        return combine(base, deltas, weights, recipe.normalize, recipe.scale)

    def _sparsify(
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
        """Return the random draws of a tensor.

        `name` is a model's label, or `draw N` for the Nth draw of a method that mergekit computes.
        """
        key = (seed, name, tensor)
        if key not in self._draws:
            drawn = masks.draws(masks.key(*key), shape, device)
            if drawn.nbytes > self._room:
                return drawn
            self._room -= drawn.nbytes
            self._draws[key] = drawn
        return self._draws[key].view(shape)
