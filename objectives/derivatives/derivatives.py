"""Differentiate a loss with respect to a recipe, given its gradient with respect to the weights.

For each tensor, d loss / d p = <d loss / d W, d W / d p>. The second factor is a central difference
of the merge, with the same random draws at both ends, so the merge need not be differentiable. The
step is wide, because the merge is discontinuous where a density passes an element's draw and where
an elected sign flips. A wide step averages over many such elements; a pathwise derivative would
ignore them.

P: parameters of a tensor with respect to which the loss is differentiated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from objectives.merge import masks, methods
from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe, Setting, slerp_pair
from objectives.merge.stream import MergeStream
from objectives.models.layout import TensorInfo

from . import contraction
from .tallies import NormTables
from .variables import SCALE, RecipeGradient, Variable, constant_recipe, variables
from .variants import clamped_densities, variants

TensorsByModel = Mapping[str, Tensor]
_OPEN_MARGIN = 1e-3
"""The distance that is kept from an open lower limit, as a fraction of the step."""
_MAX_MODELS = 10
"""The maximum number of models of a fused method. TIES with normalization needs a table with an
entry for every subset of the models."""
_MAX_EPSILON = 0.999
"""The largest epsilon of DELLA, as a fraction of the distance from the density to 0 or 1."""


class Derivatives:
    """Contracts the gradients of merged tensors with the derivatives of their merge.

    Call `begin`, then `add` for the gradients of the tensors, then `total`. Several gradients of a
    tensor are summed, and their order does not matter. Gradients are not stored.
    """

    def __init__(self, stream: MergeStream, steps: Mapping[str, float]) -> None:
        """Set up the derivatives of the merges of a stream.

        `steps` maps the parameters with respect to which to differentiate (and `lambda`) to the
        half width of the central difference, in the parameter's units.
        """
        self._stream, self._steps = stream, dict(steps)
        self._infos = {info.name: info for info in stream.sources.layout}
        self._row = {name: t for t, name in enumerate(self._infos)}
        fused = stream._fused
        self._norm_tables = NormTables(None if fused is None else fused._tables)
        self._keys: dict[tuple[int, str, str], Tensor] = {}
        self._parts: list[tuple[str, Tensor]] = []

    def begin(self, recipe: MergeRecipe) -> None:
        """Prepare for the gradients of one merge's tensors."""
        self._recipe, self._parts = recipe, []
        self._variables = variables(recipe, self._steps)
        self._fused = METHODS[recipe.method].has_kernel and len(recipe.models) <= _MAX_MODELS
        self._models = [model for model in recipe.models if model != recipe.base]
        infos = list(self._infos.values())
        if not self._fused:
            self._widths = np.array([[b - a for a, b in self._endpoints(i)] for i in infos])
            return
        self._compute_l1_norms(infos)
        merge_variants = variants(
            recipe, infos, self._variables, self._steps, self._norm_tables.tables
        )
        self._widths = merge_variants.widths
        device = self._stream._store.device
        arrays = (merge_variants.numbers, merge_variants.thresholds, merge_variants.shares)
        self._numbers, self._thresholds, self._shares = (
            torch.from_numpy(a).to(device) for a in arrays
        )

    @torch.no_grad()
    def add(self, name: str, gradient: Tensor) -> None:
        """Contract the gradient of one merged tensor, of any dtype, on the merge's device.

        Raises MergeError.
        """
        info, recipe = self._infos[name], self._recipe
        if not self._variables:
            return
        setting = recipe.at(name, info.layer)
        base = [] if recipe.base is None else [recipe.base]
        labels = list(dict.fromkeys([*base, *setting.models]))
        for _, by_model in self._stream._store.walk([(info, labels)]):
            contract = self._contract_fused if self._fused else self._contract_by_merging
            self._parts.append((name, contract(info, by_model, gradient.contiguous())))

    def total(self) -> RecipeGradient:
        """Return the derivative with respect to every value of the recipe.

        It is summed over the gradients that were added since `begin` or the last call.
        """
        gradient, recipe = RecipeGradient.zero(self._recipe), self._recipe
        if not self._parts:
            return gradient
        parts_P = torch.stack([part for _, part in self._parts]).cpu().numpy()
        for (name, _), row_P in zip(self._parts, parts_P, strict=True):
            widths_P = self._widths[self._row[name]]
            slopes_P = np.divide(row_P, widths_P, out=np.zeros_like(row_P), where=widths_P > 0)
            partials = dict(zip(self._variables, slopes_P.tolist(), strict=True))
            gradient.accumulate(recipe, name, self._infos[name].layer, partials)
        self._parts = []
        return gradient

    def _compute_l1_norms(self, infos: Sequence[TensorInfo]) -> None:
        """Compute the tables of L1 norms for DARE that are not in the cache."""
        recipe, models = self._recipe, self._models
        if recipe.base is None or not METHODS[recipe.method].drops:
            return
        seed, tables = recipe.mask_seed, self._norm_tables.tables
        new = [i for i in infos if any((seed, model, i.name) not in tables for model in models)]
        for info, by_model in self._stream._store.walk((i, [recipe.base, *models]) for i in new):
            for model in models:
                self._norm_tables.table(
                    (seed, model, info.name), by_model[recipe.base], by_model[model]
                )

    def _contract_fused(
        self, info: TensorInfo, by_model: TensorsByModel, gradient: Tensor
    ) -> Tensor:
        """Return the contraction by the fused arithmetic, float64, [P], not divided by widths."""
        recipe, t = self._recipe, self._row[info.name]
        base = None if recipe.base is None else by_model[recipe.base]
        tensors = [by_model[model] for model in self._models]
        rows = self._numbers[t], self._thresholds[t], self._shares[t]
        method = METHODS[recipe.method]
        drop, trim, elect, normalize = method.drops, method.trims, method.elects, recipe.normalize
        if trim:
            self._write_trim_thresholds(info, by_model, rows[0])
        if gradient.is_cuda:
            from . import kernels

            keys = self._philox_keys(info, gradient.device)
            return kernels.contract(
                gradient, base, tensors, keys, *rows, drop, trim, elect, normalize
            )
        draw = partial(self._stream._drawn, recipe.mask_seed, info.name)
        device = gradient.device
        drawn = [draw(m, gradient.shape, device) for m in self._models] if drop else []
        return contraction.contract(gradient, base, tensors, drawn, *rows, trim, elect, normalize)

    def _write_trim_thresholds(
        self, info: TensorInfo, by_model: TensorsByModel, numbers: Tensor
    ) -> None:
        """Write the smallest magnitudes that TIES keeps into a tensor's variants."""
        recipe, M = self._recipe, len(self._models)
        densities = recipe.values_at(info.name, info.layer)["density"]
        for m, model in enumerate(self._models):
            index = recipe.models.index(model)
            numbers[:, 2 * M + m] = self._trim_threshold(info, by_model, model, densities[index])
            if (variable := Variable("density", index)) in self._variables:
                p = self._variables.index(variable)
                for v, value in enumerate(
                    clamped_densities(densities[index], self._steps["density"])
                ):
                    numbers[2 * p + v, 2 * M + m] = self._trim_threshold(
                        info, by_model, model, value
                    )

    def _trim_threshold(
        self, info: TensorInfo, by_model: TensorsByModel, model: str, density: float
    ) -> Tensor | float:
        tensor, base = by_model[model], by_model[str(self._recipe.base)]
        if density >= 1 or not tensor.numel():
            return 0.0
        fused, count = self._stream._fused, max(1, int(density * tensor.numel()))
        if density <= 0 or fused is None:
            return methods.smallest_kept(tensor.float() - base.float(), density)
        return fused._trim_threshold(info.name, base, tensor, model, count)

    def _philox_keys(self, info: TensorInfo, device: torch.device) -> Tensor:
        """Return the Philox keys of a tensor's models, int64, as the kernels read them."""
        index = self._recipe.mask_seed, ",".join(self._models), info.name
        if index not in self._keys:
            words = [masks.key(self._recipe.mask_seed, m, info.name) for m in self._models]
            whole = np.array([low | high << 32 for low, high in words], np.uint64)
            self._keys[index] = torch.from_numpy(whole.view(np.int64)).to(device)
        return self._keys[index]

    def _contract_by_merging(
        self, info: TensorInfo, by_model: TensorsByModel, gradient: Tensor
    ) -> Tensor:
        """Return the contraction by two merges for each parameter, with mergekit or methods.py.

        It is float64, [P], and not divided by the widths.
        """
        slope, parts = gradient.double(), []
        for variable, (low, high) in zip(self._variables, self._endpoints(info), strict=True):
            if high > low:
                above, below = (self._merged(info, by_model, variable, end) for end in (high, low))
                parts.append((slope * (above - below)).sum())
            else:
                parts.append(slope.new_zeros(()))
        return torch.stack(parts)

    def _endpoints(self, info: TensorInfo) -> list[tuple[float, float]]:
        """Return the lower and the upper value of each parameter, within the method's limits."""
        recipe = self._recipe
        numbers, shared = _numbers(recipe, info)
        pairs = []
        for variable in self._variables:
            value, step = _value(recipe, numbers, shared, variable), self._steps[variable.name]
            lowest, highest = _limits(recipe, numbers, variable, step)
            pairs.append((max(value - step, lowest), min(value + step, highest)))
        return pairs

    def _merged(
        self, info: TensorInfo, by_model: TensorsByModel, variable: Variable, value: float
    ) -> Tensor:
        """Return the merged tensor with one parameter set to `value`, as float64."""
        recipe = self._recipe
        numbers, shared = _numbers(recipe, info)
        if METHODS[recipe.method].pairwise:
            first, second, _ = slerp_pair(numbers["t"])
            values = _replace(numbers["t"], variable.model, value)
            t = slerp_pair((values[first], values[second]))[2]
            share = t if values[first] >= values[second] else 1 - t
            setting = Setting((recipe.models[first], recipe.models[second]), t=share)
            return self._stream._merge(recipe, setting, info, by_model).double()
        if variable.name == SCALE:
            recipe = dataclasses.replace(recipe, scale=value)
        elif variable.model is None:
            shared[variable.name] = value
        else:
            numbers[variable.name] = _replace(numbers[variable.name], variable.model, value)
        if "epsilon" in numbers and "density" in numbers:
            pairs = zip(numbers["epsilon"], numbers["density"], strict=True)
            numbers["epsilon"] = tuple(
                min(e, _MAX_EPSILON * d, _MAX_EPSILON * (1 - d)) for e, d in pairs
            )
        one = constant_recipe(recipe, numbers, shared)
        return self._stream._merge(one, one.at(info.name, info.layer), info, by_model).double()


def _numbers(
    recipe: MergeRecipe, info: TensorInfo
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    return recipe.values_at(info.name, info.layer), recipe.shared_at(info.name, info.layer)


def _value(
    recipe: MergeRecipe,
    numbers: Mapping[str, tuple[float, ...]],
    shared: Mapping[str, float],
    variable: Variable,
) -> float:
    if variable.name == SCALE:
        return recipe.scale
    return (
        shared[variable.name] if variable.model is None else numbers[variable.name][variable.model]
    )


def _limits(
    recipe: MergeRecipe, numbers: Mapping[str, tuple[float, ...]], variable: Variable, step: float
) -> tuple[float, float]:
    """Return the lowest and the highest value that a parameter may have."""
    parameter = METHODS[recipe.method].parameter(variable.name)
    low, high = (-np.inf, np.inf) if parameter is None else parameter.limits
    if parameter is not None and parameter.open:
        low += _OPEN_MARGIN * step
    if parameter is not None and parameter.least:
        low = max(low, parameter.least)
    if variable.name == "epsilon" and "density" in numbers and variable.model is not None:
        density = numbers["density"][variable.model]
        high = min(high, _MAX_EPSILON * density, _MAX_EPSILON * (1 - density))
    return float(low), float(high)


def _replace(row: tuple[float, ...], index: int | None, value: float) -> tuple[float, ...]:
    return tuple(value if i == index else old for i, old in enumerate(row))
