"""A model whose layers are a path through the layers of several models.

This is a merge in the data flow space (Akiba et al. 2024, "Evolutionary Optimization of Model
Merging Recipes", section 3.2): a token passes through layers of several models, in any order and
any number of times. Each step is a hop, whose layer may be scaled.

**The scale.** A layer with normalization before each part computes h' = h + A(h), then h' + M(h').
The scale s of a hop multiplies both parts: h' = h + s A(h), then h' + s M(h'). Both parts end in a
linear map, `o_proj` and `down_proj`, so the scale is folded into the weights (and biases) of these,
and the result is an ordinary model. Akiba et al. multiply the input of a layer by a weight w
instead. A and M do not depend on the length of h, because they begin with an RMS normalization, and
the final normalization removes the length of the last h. So a path with input weights w_1, ..., w_n
computes what a path with the scales s_i = 1 / (w_1 ... w_i) does, up to the epsilon of the
normalizations.

**Limits.** In an architecture that also normalizes the output of these parts (Gemma 2 and 3, Olmo 2
and 3, GLM 4) the folded scale would have no effect: there every scale must be 1, or 0. A layer of
scale 0 does nothing there either, because the normalization of zeros is zero. Architectures without
exactly one `o_proj` and one `down_proj` in every layer (GPT-2, Phi, Starcoder2) allow scale 1 only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from objectives.errors import SourceError
from objectives.models.layout import TensorInfo, in_layer
from objectives.models.sources import Sources

from .recipe import Hop, PathRecipe
from .stores import Store

_SCALED = ("o_proj", "down_proj")
"""The modules at the end of the parts of a layer."""
_POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_self_attn_layernorm")
"""Modules of the layers that normalize the outputs of their parts."""
_INPUT_NORMS = 2
"""The maximum number of normalizations of a layer that normalizes inputs only, besides those of
queries and keys."""
_PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")
"""Keys of config.json with a value for each layer."""
_BY_INDEX = ("scale_attn_by_inverse_layer_idx",)
"""Keys of config.json that let the computation of a layer depend on its number."""


@dataclass(frozen=True)
class PathTensor:
    """A tensor of a path: where it is from, and its name in the path's model."""

    name: str
    source: TensorInfo
    model: str
    scale: float


def check_path(recipe: PathRecipe, sources: Sources) -> None:
    """Check that the path has layers, that they exist, and that they can be scaled.

    Raises SourceError.
    """
    if not recipe.hops:
        raise SourceError("a path needs at least one layer")
    for hop in recipe.hops:
        if hop.model not in sources.checkpoints:
            raise SourceError(f"{hop.model} is not a model of this path")
        if not 0 <= hop.layer < sources.num_layers:
            raise SourceError(
                f"{hop.model} has no layer {hop.layer}; its layers are 0 to "
                f"{sources.num_layers - 1}"
            )
    scales = {hop.scale for hop in recipe.hops} - {1.0}
    reason = unscalable(sources) if scales - {0.0} else without_outputs(sources) if scales else None
    if reason is not None:
        raise SourceError(f"{sources.reference.label}: layers cannot be scaled: {reason}")


def unscalable(sources: Sources) -> str | None:
    """Return why the layers of these models cannot be scaled; None if they can."""
    for names in _names_in_layers(sources):
        norms = [n for n in names if "norm" in n.split(".")[-2] and "attn" not in n.split(".")[-3]]
        named = any(module in name for name in names for module in _POST_NORMS)
        if named or len({name.split(".")[-2] for name in norms}) > _INPUT_NORMS:
            return f"{sources.reference.architecture} normalizes the outputs of their parts"
    return without_outputs(sources)


def without_outputs(sources: Sources) -> str | None:
    """Return why a layer of scale 0 would not be idle in these models; None if it is."""
    for names in _names_in_layers(sources):
        for module in _SCALED:
            if sum(name.endswith(f".{module}.weight") for name in names) != 1:
                return f"{sources.reference.architecture} has no single {module} in each layer"
    return None


def check_layers(sources: Sources) -> None:
    """Check that a layer of these models computes the same at every position of a path.

    Raises SourceError.
    """
    parsed, label = sources.reference.parsed, sources.reference.label
    for key, value in parsed.to_dict().items():
        is_list = isinstance(value, list) and len(value) == sources.num_layers > 1
        uneven = is_list and any(item != value[0] for item in value)
        unknown = uneven and key not in _PER_LAYER and not key.endswith(("_token_id", "_ids"))
        if unknown or (key in _BY_INDEX and value):
            raise SourceError(
                f"{label}: its layers cannot change places: with {key} in config.json they depend "
                "on their number; use genome.kind: weights"
            )


def _by_layer(sources: Sources) -> dict[int, list[TensorInfo]]:
    """Return the tensors by layer, in their order; -1 is before the first, `num_layers` after the
    last."""
    by_layer: dict[int, list[TensorInfo]] = {}
    for info in sources.layout:
        by_layer.setdefault(info.layer, []).append(info)
    return by_layer


def _names_in_layers(sources: Sources) -> list[list[str]]:
    """Return the names of the tensors of each layer."""
    by_layer = _by_layer(sources)
    return [[info.name for info in by_layer[layer]] for layer in range(sources.num_layers)]


def fixed_places(sources: Sources) -> str | None:
    """Return why an engine with a fixed number of layers cannot run paths; None if it can.

    Such an engine fills shorter paths up with layers of scale 0, and keeps the kind of each layer.
    """
    parsed = sources.reference.parsed
    for key in _PER_LAYER:
        values = getattr(parsed, key, None)
        if isinstance(values, list) and len(set(values)) > 1:
            return f"the {key} of their layers differ"
    return without_outputs(sources)


def is_scaled(name: str) -> bool:
    """Return whether the scale of a hop changes the tensor of this name."""
    return name.split(".")[-2] in _SCALED


def path_tensors(recipe: PathRecipe, sources: Sources) -> list[PathTensor]:
    """Return the tensors of the path's model, in their order."""
    by_layer, ends = _by_layer(sources), recipe.ends
    tensors = [PathTensor(info.name, info, ends, 1.0) for info in by_layer.get(-1, [])]
    for position, hop in enumerate(recipe.hops):
        for info in by_layer[hop.layer]:
            scale = hop.scale if is_scaled(info.name) else 1.0
            tensors.append(PathTensor(in_layer(info.name, position), info, hop.model, scale))
    after = by_layer.get(sources.num_layers, [])
    return tensors + [PathTensor(info.name, info, ends, 1.0) for info in after]


def merged_path(recipe: PathRecipe, sources: Sources, store: Store) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and the tensors of the path's model, in the recipe's dtype."""
    dtype = getattr(torch, recipe.dtype)
    tensors = path_tensors(recipe, sources)
    walk = store.walk((tensor.source, [tensor.model]) for tensor in tensors)
    for tensor, (_, by_model) in zip(tensors, walk, strict=True):
        yield tensor.name, scaled(by_model[tensor.model], tensor.scale, dtype)


def scaled(tensor: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the tensor times `scale`, multiplied in float32, in this dtype."""
    return tensor.to(dtype) if scale == 1.0 else (tensor.float() * scale).to(dtype)


def path_config(recipe: PathRecipe, sources: Sources) -> dict[str, Any]:
    """Return the config.json of the path's model."""
    config = sources.merged_config(recipe.dtype)
    parsed = sources.reference.parsed
    config["num_hidden_layers"] = len(recipe.hops)
    for key in _PER_LAYER:
        values = getattr(parsed, key, None)
        if isinstance(values, list) and len(values) == sources.num_layers:
            config[key] = [values[hop.layer] for hop in recipe.hops]
    return config


def mergekit_can_make(recipe: PathRecipe, sources: Sources) -> bool:
    """Return whether mergekit's model of the path has the right vocabulary and config.json.

    It copies lists with a value for each layer from the first model without changes.
    """
    config, own = path_config(recipe, sources), sources.merged_config(recipe.dtype)
    return not sources.vocabularies_differ and all(
        config.get(key) == own[key] for key in _PER_LAYER if key in own
    )


def to_passthrough(recipe: PathRecipe, references: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the path as a mergekit configuration of method passthrough.

    `references` are the folders or hub ids of the models by label. Returns None if mergekit would
    take the embedding or the head from another model: it takes them from the models of the first
    and the last layer.
    """
    if {recipe.hops[0].model, recipe.hops[-1].model} != {recipe.ends}:
        return None
    slices: list[dict[str, Any]] = []
    for position, hop in enumerate(recipe.hops):
        before = recipe.hops[position - 1] if position else None
        if before is not None and hop == Hop(before.model, before.layer + 1, before.scale):
            slices[-1]["sources"][0]["layer_range"][1] += 1
            continue
        source: dict[str, Any] = {
            "model": references[hop.model],
            "layer_range": [hop.layer, hop.layer + 1],
        }
        if hop.scale != 1.0:
            filters = [{"filter": module, "value": hop.scale} for module in _SCALED]
            source["parameters"] = {"scale": [*filters, {"value": 1.0}]}
        slices.append({"sources": [source]})
    return {
        "merge_method": "passthrough",
        "slices": slices,
        "dtype": "float32",
        "out_dtype": recipe.dtype,
    }
