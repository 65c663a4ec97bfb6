"""Merges of the task-arithmetic family, with one kernel for each tensor.

DARE divides by the L1 norm of the masked delta. A mask keeps the elements whose draw is below the
density, so this norm is a function of the density. It is computed once for each of the 65,537
distinguishable densities, and a merge then reads every tensor only once.

M: models of the recipe without its base.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.models.layout import TensorInfo
from objectives.models.sources import L1NormTables

from . import exact_sums as sums
from . import kernels, masks, methods
from .catalogue import METHODS
from .recipe import MergeRecipe, Setting
from .stores import Store

log = logging.getLogger(__name__)

_CHUNK = 16
"""The number of tensors whose parameters are computed and copied to the device together."""
_MAX_MODELS = 10
"""TIES with normalization needs a table with an entry for every subset of the models."""


def covers(recipe: MergeRecipe) -> bool:
    """Return whether there is a kernel for a recipe."""
    return METHODS[recipe.method].has_kernel and len(recipe.models) <= _MAX_MODELS


class Fused:
    """Merges one recipe after another over the tensors of a store, on the store's device."""

    def __init__(
        self, store: Store, layout: Sequence[TensorInfo], tables: L1NormTables | None = None
    ) -> None:
        """`tables` is a cache of L1 norms that merges of the same sources can share."""
        self._store, self._layout = store, layout
        self._tables = {} if tables is None else tables
        self._keys: dict[tuple[int, str, str], int] = {}
        self._magnitudes: dict[tuple[str, str], NDArray[np.int64]] = {}

    def tensors(self, recipe: MergeRecipe) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and the merged tensors, in the recipe's dtype, on the device."""
        models = [model for model in recipe.models if model != recipe.base]
        method = METHODS[recipe.method]
        if method.drops:
            self._compute_l1_norms(recipe, models)
        labels = models if recipe.base is None else [recipe.base, *models]
        dtype = getattr(torch, recipe.dtype)
        walk = self._store.walk((info, labels) for info in self._layout)
        for index, (info, by_model) in enumerate(walk):
            i = index % _CHUNK
            if i == 0:  # computed while the device still merges the previous chunk
                infos = self._layout[index : index + _CHUNK]
                settings = [recipe.at(info.name, info.layer) for info in infos]
                numbers, draws = self._numbers(recipe, models, infos, settings)
                shares = self._shares(recipe, models, settings)
            base = None if recipe.base is None else by_model[recipe.base]
            if method.trims and recipe.base is not None:
                densities = dict(zip(models, _densities(settings[i], models), strict=True))
                self._write_trim_thresholds(numbers[i], info.name, by_model, recipe.base, densities)
            out = torch.empty(info.shape, dtype=dtype, device=self._store.device)
            kernels.mix(
                out,
                base,
                [by_model[model] for model in models],
                numbers[i],
                draws[i],
                shares[i],
                drop=method.drops,
                trim=method.trims,
                elect=method.elects,
                normalize=recipe.normalize,
            )
            yield info.name, out

    def _compute_l1_norms(self, recipe: MergeRecipe, models: Sequence[str]) -> None:
        """Compute the tables of L1 norms of models that have none yet."""
        seed, base = recipe.mask_seed, recipe.base
        assert base is not None
        names = [info.name for info in self._layout]
        new = [m for m in models if any((seed, m, name) not in self._tables for name in names)]
        if not new:
            return
        log.info("computing the L1 norms of %s", ", ".join(new))
        for info, by_model in self._store.walk((info, [base, *new]) for info in self._layout):
            for model in new:
                key = (seed, model, info.name)
                quantum = sums.quantum(by_model[model].float() - by_model[base].float())
                table = kernels.tally(by_model[base], by_model[model], self._key(key), quantum)
                self._tables[key] = table.numpy(), quantum

    def _key(self, key: tuple[int, str, str]) -> int:
        """Return the Philox key of a tensor's mask as a signed integer of 64 bits."""
        if key not in self._keys:
            low, high = masks.key(*key)
            self._keys[key] = _signed(low | high << 32)
        return self._keys[key]

    def _numbers(
        self,
        recipe: MergeRecipe,
        models: Sequence[str],
        infos: Sequence[TensorInfo],
        settings: Sequence[Setting],
    ) -> tuple[Tensor, Tensor]:
        """Return `numbers` and `draws` of `kernels.mix`, one row for each tensor."""
        M = len(models)
        numbers = np.ones((len(settings), 3 * M + 2), np.float32)
        draws = np.zeros((len(settings), 2 * M), np.int64)
        for i, (info, setting) in enumerate(zip(infos, settings, strict=True)):
            weights = _weights(setting, models)
            numbers[i, :M] = weights
            numbers[i, 3 * M] = methods.divisor(weights) if recipe.base else sum(weights)
            numbers[i, 3 * M + 1] = recipe.scale
            if METHODS[recipe.method].drops:
                for m, density in enumerate(_densities(setting, models)):
                    key = (recipe.mask_seed, models[m], info.name)
                    table, quantum = self._tables[key]
                    below = masks.threshold(density)
                    draws[i, m], draws[i, M + m] = self._key(key), below
                    numbers[i, M + m] = sums.ratio(int(table[-1]), int(table[below]), quantum)
        return self._to_device(numbers), self._to_device(draws)

    def _shares(
        self, recipe: MergeRecipe, models: Sequence[str], settings: Sequence[Setting]
    ) -> Tensor:
        """Return 1 / the sum of weights, by tensor and by the set of models that agree in sign."""
        if not (recipe.normalize and METHODS[recipe.method].elects):
            return torch.ones(len(settings), 1, device=self._store.device)
        weights = np.array([_weights(setting, models) for setting in settings], np.float32)
        sums_ = np.zeros((len(settings), 2 ** len(models)), np.float32)
        for m in range(len(models)):  # in the order in which methods.ties adds
            agree = (np.arange(2 ** len(models)) >> m & 1).astype(bool)
            sums_[:, agree] += weights[:, m : m + 1]
        shares = 1 / np.where(sums_ == 0, np.float32(1), sums_)
        return self._to_device(shares)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        """Queue a copy to the device without waiting for it."""
        tensor, device = torch.from_numpy(array), self._store.device
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    def _write_trim_thresholds(
        self,
        numbers: Tensor,
        name: str,
        by_model: Mapping[str, Tensor],
        base: str,
        densities: Mapping[str, float],
    ) -> None:
        """Write the smallest magnitudes that TIES keeps into a tensor's row of numbers."""
        for m, (model, density) in enumerate(densities.items()):
            at = 2 * len(densities) + m
            count = max(1, int(density * by_model[model].numel()))
            if density >= 1 or by_model[model].numel() == 0:
                numbers[at] = 0.0
            elif density <= 0:
                numbers[at] = math.inf
            else:
                numbers[at] = self._trim_threshold(
                    name, by_model[base], by_model[model], model, count
                )

    def _trim_threshold(
        self, name: str, base: Tensor, model: Tensor, label: str, count: int
    ) -> Tensor:
        """Return the `count`-th largest of |model - base|, a scalar.

        Its upper 16 bits are found first, then its lower 16 bits.
        """
        key = (label, name)
        if key not in self._magnitudes:
            counts = kernels.magnitudes(base, model)
            self._magnitudes[key] = counts.flip(0).cumsum(0).cpu().numpy()
        from_top = self._magnitudes[key]
        above = int(np.searchsorted(from_top, count))
        high, rest = len(from_top) - 1 - above, count - int(from_top[above - 1] if above else 0)
        counts = kernels.magnitudes_within(base, model, high)
        low = (counts.flip(0).cumsum(0).flip(0) >= rest).sum() - 1
        return (low.to(torch.int32) | high << 16).view(torch.float32)


def _weights(setting: Setting, models: Sequence[str]) -> list[float]:
    by_model = dict(zip(setting.models, setting.weights, strict=True))
    return [by_model[model] for model in models]


def _densities(setting: Setting, models: Sequence[str]) -> list[float]:
    by_model = dict(zip(setting.models, setting.densities, strict=True))
    return [by_model[model] for model in models]


def _signed(word: int) -> int:
    """Return a 64-bit word as a signed integer."""
    return word - (1 << 64) if word >> 63 else word
