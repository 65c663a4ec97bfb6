"""The tensors of an architecture in their order, each with its layer.

They are read from mergekit's table of the architecture. If mergekit has no table, or if the table
does not fit the model's files, they are read from the model class of transformers, which is
instantiated on the meta device, without memory for its tensors.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from objectives.errors import SourceError

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the merge, with its layer and its shape in the merge."""

    name: str
    layer: int
    """-1 before the first layer; the number of layers after the last one."""
    shape: tuple[int, ...]
    weight: WeightInfo


def in_layer(name: str, layer: int) -> str:
    """Return the name of a layer's tensor with its layer's number replaced by `layer`."""
    match = _LAYER.search(name)
    assert match is not None
    return f"{name[: match.start(1)]}{layer}{name[match.end(1) :]}"


def architecture(label: str, path: Path, names: Any, config: Any) -> str:
    """Return the architecture of a config: the name of its model class in transformers.

    `names` is the value of `architectures` in config.json. Raises SourceError if it does not
    contain the name of the causal language model that transformers creates from the config, or if
    the model is a mixture of experts.
    """
    model_class = _language_model(config)
    if not names:
        remedy = f'; set it to ["{model_class}"]' if model_class else ""
        raise SourceError(f'{label}: {path}: "architectures" is missing or empty{remedy}')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{label}: {path}: architectures must be a list of names, not {names!r}")
    if model_class is None or model_class not in names:
        raise SourceError(
            f"{label}: {path}: architectures {names[:4]} cannot be merged: for model_type "
            f"{config.model_type} transformers creates {model_class or 'no causal language model'}"
        )
    if any((getattr(config, key, None) or 0) > 1 for key in _EXPERTS):
        raise SourceError(
            f"{label}: {model_class} is a mixture of experts, which cannot be merged: the names of "
            "its tensors in its files differ from those in a running model"
        )
    return model_class


def _language_model(config: Any) -> str | None:
    names: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    name: str | None = names if isinstance(names, str) or names is None else names[0]
    return name


def weights_of(
    label: str, path: Path, name: str, config: Any, stored: frozenset[str]
) -> tuple[int, list[tuple[int, WeightInfo]]]:
    """Return the number of layers, and pairs of a layer and a weight in the model's order.

    The layer of a weight is -1 before the first layer, and the number of layers after the last one.
    `stored` are the names of the tensors in the model's files. Raises SourceError.
    """
    infos = [
        info
        for info in NAME_TO_ARCH.get(name, [])
        if len(info.modules) == 1 and not any(m.weight_prefix for m in info.modules.values())
    ]
    if not infos:
        return _inferred(label, path, config)
    info = next((i for i in infos if i.expected_model_type == config.model_type), infos[0])
    [module] = info.modules.values()
    table = module.architecture
    num_layers = int(table.num_layers(config))
    weights = [(-1, w) for w in table.pre_weights(config)]
    for layer in range(num_layers):
        weights += [(layer, w) for w in table.layer_weights(layer, config) or ()]
    weights += [(num_layers, w) for w in table.post_weights(config)]
    names = [{weight.name, *(weight.aliases or ())} for _, weight in weights]
    missing = any(
        not (w.optional or own & stored) for (_, w), own in zip(weights, names, strict=True)
    )
    if missing or any(name.endswith(".bias") for name in stored.difference(*names)):
        return _inferred(label, path, config)
    return num_layers, weights


def empty_model(label: str, path: Path, config: Any) -> Any:
    """Return the language model of a config without memory for its tensors. Raises SourceError."""
    try:
        with no_init_weights(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            model.tie_weights()
            return model
    except Exception as error:  # invalid values may cause any error
        text = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise SourceError(
            f"{label}: transformers cannot create the model of {path}: {reason}"
        ) from None


def _inferred(label: str, path: Path, config: Any) -> tuple[int, list[tuple[int, WeightInfo]]]:
    """Return the result of `weights_of` according to the model class of transformers."""
    model = empty_model(label, path, config)
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    vocabulary = {id(p) for end in ends if end is not None for p in end.parameters()}
    num_layers = int(config.num_hidden_layers)
    weights: list[tuple[int, WeightInfo]] = []
    passed = False
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = _LAYER.search(name)
        passed = passed or layer is not None
        index = int(layer[1]) if layer else num_layers if passed else -1
        source = tied.get(name) or _embedding_of(model, name)
        weight = WeightInfo(
            name=name,
            vocabulary_axis=0 if id(parameter) in vocabulary else None,
            optional=source is not None,
            tied_names=None if source is None else (source,),
        )
        weights.append((index, weight))
    return num_layers, weights


def _embedding_of(model: Any, name: str) -> str | None:
    """Return the embedding's name if `name` is the head's, which a finetune may tie; else None."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): path for path, module in model.named_modules()}
    if head is None or embedding is None or name != f"{names[id(head)]}.weight":
        return None
    return f"{names[id(embedding)]}.weight"
