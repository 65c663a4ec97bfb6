"""Write a recipe in mergekit's format, which `mergekit-yaml` accepts."""

from collections.abc import Mapping
from typing import Any

from .catalogue import METHODS
from .recipe import MergeRecipe, slerp_pair


def to_mergekit(
    recipe: MergeRecipe, references: Mapping[str, str], tokenizer_source: str | None = None
) -> dict[str, Any]:
    """Return the recipe as a mergekit configuration.

    `references` are the folders or hub ids of the models by label. mergekit draws other random
    masks, so for the dare and della methods its result has the same distribution as ours, but not
    the same bits.
    """
    method = METHODS[recipe.method]
    config: dict[str, Any] = {"merge_method": recipe.method}
    if method.pairwise:
        config["slices"] = _slerp_slices(recipe, references)
    elif recipe.smooth:
        config["models"] = _models(recipe, references)
    else:
        config["slices"] = _slices(recipe, references)
    if recipe.base is not None:
        config["base_model"] = references[recipe.base]
    shared: dict[str, Any] = dict(recipe.options)
    if method.normalize is not None and not method.pairwise:
        shared["normalize"] = recipe.normalize
    if recipe.scale != 1.0:
        shared["lambda"] = recipe.scale
    if recipe.smooth:
        for name, values_KF in recipe.shared.items():
            lines = [_line([knot[f] for knot in values_KF]) for f in _sets(recipe)]
            shared[name] = _filtered(recipe, lines)
    config["parameters"] = shared | {"int8_mask": True}
    config["dtype"], config["out_dtype"] = "float32", recipe.dtype
    if tokenizer_source is not None:
        config["tokenizer_source"] = tokenizer_source
    return config


def _slices(recipe: MergeRecipe, references: Mapping[str, str]) -> list[dict[str, Any]]:
    slices = []
    for knot, layers in enumerate(_layer_ranges(recipe)):
        sources: list[dict[str, Any]] = []
        for m, model in enumerate(recipe.models):
            values = {
                name: _filtered(recipe, [values_KMF[knot][m][f] for f in _sets(recipe)])
                for name, values_KMF in recipe.values.items()
            }
            source = {"model": references[model], "layer_range": layers}
            sources.append(source | ({"parameters": values} if values else {}))
        if recipe.base is not None and recipe.base not in recipe.models:
            sources.append({"model": references[recipe.base], "layer_range": layers})
        slice_: dict[str, Any] = {"sources": sources}
        if recipe.shared:
            slice_["parameters"] = {
                name: _filtered(recipe, list(values_KF[knot]))
                for name, values_KF in recipe.shared.items()
            }
        slices.append(slice_)
    return slices


def _models(recipe: MergeRecipe, references: Mapping[str, str]) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = []
    for m, model in enumerate(recipe.models):
        values = {
            name: _filtered(
                recipe, [_line([knot[m][f] for knot in values_KMF]) for f in _sets(recipe)]
            )
            for name, values_KMF in recipe.values.items()
        }
        models.append({"model": references[model]} | ({"parameters": values} if values else {}))
    if recipe.base is not None and recipe.base not in recipe.models:
        models.append({"model": references[recipe.base]})
    return models


def _slerp_slices(recipe: MergeRecipe, references: Mapping[str, str]) -> list[dict[str, Any]]:
    slices = []
    for knot, layers in enumerate(_layer_ranges(recipe)):
        first, second, t = slerp_pair(tuple(model[0] for model in recipe.values["t"][knot]))
        pair = [references[recipe.models[i]] for i in (first, second)]
        slices.append(
            {
                "sources": [{"model": model, "layer_range": layers} for model in pair],
                "base_model": pair[0],
                "parameters": {"t": t},
            }
        )
    return slices


def _layer_ranges(recipe: MergeRecipe) -> list[list[int]]:
    step = recipe.num_layers // recipe.knots
    return [[start, start + step] for start in range(0, recipe.num_layers, step)]


def _sets(recipe: MergeRecipe) -> range:
    return range(len(recipe.filters) + 1)


def _filtered(recipe: MergeRecipe, values: list[Any]) -> Any:
    if not recipe.filters:
        return values[0]
    names = [*recipe.filters, None]
    return [{"filter": name, "value": v} for name, v in zip(names, values, strict=True)]


def _line(values: list[float]) -> Any:
    return values[0] if len(values) == 1 else values
