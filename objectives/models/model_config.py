"""Parse a model's config.json as transformers does, and compare the parsed values.

Configs may express the same values in different ways, so they are compared after parsing. Code that
comes with a model is never run.
"""

import copy
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, __version__

from objectives.errors import SourceError

FOREIGN = (
    *(
        "auto_map",
        "custom_pipelines",
        "quantization_config",
        "transformers_weights",
        "configuration_files",
    ),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
"""Keys that refer to code, to other files or to quantization; they are left out of a merge."""
POSITIONS = frozenset(
    {"rope_parameters", "sliding_window", "layer_types", "max_position_embeddings"}
)
"""Keys of position embeddings and attention windows. Models of one family may differ in these and
still be merged; the study then chooses the model whose values the merge uses."""
_OLD_POSITIONS = (
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq"),
    *("use_sliding_window", "max_window_layers", "sliding_window_pattern"),
)
"""Older keys, which the config classes convert to POSITIONS."""
_BOOKKEEPING = frozenset(
    {
        *FOREIGN,
        *_OLD_POSITIONS,
        *("architectures", "model_type", "transformers_version", "_name_or_path", "name_or_path"),
        *("dtype", "torch_dtype", "use_cache", "return_dict", "use_return_dict"),
        *("output_attentions", "output_hidden_states", "output_router_logits", "_commit_hash"),
        *("_output_attentions", "_attn_implementation_autoset", "gradient_checkpointing"),
        *("initializer_range", "initializer_factor", "pretraining_tp", "vocab_size"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
        *("task_specific_params", "tokenizer_class", "prefix", "torchscript", "use_bfloat16"),
        *("tie_word_embeddings", "classifier_dropout", "classifier_bias", "is_decoder"),
        *("chunk_size_feed_forward", "ignore_keys_at_rope_validation", "reorder_and_upcast_attn"),
        *("init_std", "layerdrop", "encoder_layerdrop", "decoder_layerdrop"),
        *("embd_pdrop", "resid_pdrop", "attn_pdrop", "router_aux_loss_coef", "tie_encoder_decoder"),
    }
)
"""Keys that do not affect answers, or whose differences the merge resolves: the vocabulary size and
tied heads."""
_CACHE_KEYS = frozenset({"attention_chunk_size", "is_causal", "sliding_window"})
"""Keys that transformers' cache and masks read for every architecture."""
_BOOKKEEPING_PATTERN = re.compile(r".*_token_(id|index)|.*dropout(_prob|_rate)?|.*_use_cache")
_LAYER_COUNT = re.compile(r"(.*_)?(n|num)_(.*_)?layers?")
_MAX_LAYERS = 2048
_SCALED_BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Rope types that depend on max_position_embeddings; yarn does if it has no factor."""


def parse(label: str, path: Path, data: Mapping[str, Any]) -> Any:
    """Return the config as transformers parses it. Raises SourceError."""
    model_type = _model_type(label, path, data)
    _check_counts(label, path, data)
    if model_type == "mistral" and "layer_types" in data:
        model_type = "ministral"  # as AutoConfig does
    values = {
        key: value
        for key, value in data.items()
        if key
        not in (*FOREIGN, "model_type", "torch_dtype", "dtype", "num_labels", "per_layer_config")
    }
    try:
        return CONFIG_MAPPING[model_type](**copy.deepcopy(values))
    except Exception as error:  # invalid values may cause any error
        raise SourceError(f"{label}: cannot use {path}: {_reason(error)}") from None


def without_foreign(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys in FOREIGN."""
    return {key: value for key, value in data.items() if key not in FOREIGN}


def differences(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ in two configs and affect answers, with both values.

    A key has no effect if neither the config's class declares it nor the model's code, or the code
    that all models share, mentions it.
    """
    length = max(_context(ours), _context(theirs))
    first, second = (dict(_effective(config, length)) for config in (ours, theirs))
    keys = [key for key in {**first, **second} if _differ(first.get(key), second.get(key))]
    if not (_depends_on_length(ours) or _depends_on_length(theirs)):
        keys = [key for key in keys if key != "max_position_embeddings"]
    return {
        key: (first.get(key), second.get(key))
        for key in keys
        if key in type(ours).__dataclass_fields__
        or key in _CACHE_KEYS
        or key == "head_dim"
        or _mentions(type(ours), key)
    }


def describe_differences(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the first differences as text; of nested mappings only the entries that differ."""
    parts = []
    for key, (ours, theirs) in differing.items():
        if isinstance(ours, dict) and isinstance(theirs, dict):
            nested = {
                f"{key}.{name}": (ours.get(name), theirs.get(name))
                for name in {**ours, **theirs}
                if _differ(ours.get(name), theirs.get(name))
            }
            parts.append(describe_differences(nested))
        else:
            parts.append(f"{key} {_short(ours)} and {_short(theirs)}")
    return ", ".join(parts[:8])


def positions(config: Any) -> dict[str, Any]:
    """Return the values of POSITIONS in a parsed config."""
    values = config.to_dict()
    return {key: values[key] for key in sorted(POSITIONS) if key in values}


def with_positions(data: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return a config.json's mapping with the positions of a parsed config."""
    others = {key: value for key, value in data.items() if key not in _OLD_POSITIONS}
    return others | positions(config)


def _model_type(label: str, path: Path, data: Mapping[str, Any]) -> str:
    model_type, own_code = data.get("model_type"), data.get("auto_map")
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        return model_type
    name = "a model without a model_type"
    if model_type is not None:
        name = f"model_type {_short(model_type)}"
    if own_code:
        raise SourceError(
            f"{label}: {path}: {name} needs code that comes with the model (auto_map), and such "
            f"code is never run; transformers {__version__} itself does not have this model"
        )
    if model_type is None:
        raise SourceError(f"{label}: {path} has no model_type; is it the config.json of a model?")
    raise SourceError(f"{label}: {path}: transformers {__version__} does not support {name}")


def _check_counts(label: str, path: Path, data: Mapping[str, Any]) -> None:
    """Refuse counts for which a config class would loop for minutes. Raises SourceError.

    The configs of a model's parts are checked too.
    """
    for key, value in data.items():
        if isinstance(value, dict):
            _check_counts(label, path, value)
        is_count = key == "num_labels" or _LAYER_COUNT.fullmatch(str(key))
        if is_count and isinstance(value, int | float) and not -1 <= value <= _MAX_LAYERS:
            raise SourceError(
                f"{label}: {path}: {key}: {_short(value)}; must be -1 to {_MAX_LAYERS}"
            )


def _context(config: Any) -> float:
    """Return the maximum number of tokens that a model accepts; infinity if unknown."""
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) else math.inf


def _effective(config: Any, length: float) -> Iterator[tuple[str, Any]]:
    """Yield the values that affect answers for prompts of up to `length` tokens.

    A sliding window of at least that length has no effect.
    """
    values = config.to_dict()
    window = values.get("sliding_window")
    if isinstance(window, int) and window >= length:
        values["sliding_window"] = None
        if isinstance(types := values.get("layer_types"), list):
            full, sliding = "full_attention", "sliding_attention"
            values["layer_types"] = [full if type_ == sliding else type_ for type_ in types]
    if values.get("head_dim") is None and getattr(config, "num_attention_heads", None):
        values["head_dim"] = config.hidden_size // config.num_attention_heads
    for key, value in values.items():
        ignored = key.startswith("_") or key in _BOOKKEEPING
        if value is not None and not ignored and not _BOOKKEEPING_PATTERN.fullmatch(key):
            yield key, _plain(value)


def _plain(value: Any) -> Any:
    """Return nested values without None and without `type`, the old name of `rope_type`."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None and k != "type"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _differ(ours: Any, theirs: Any) -> bool:
    same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)
    return not (same or (ours != ours and theirs != theirs))


def _depends_on_length(config: Any) -> bool:
    """Return whether the rope of a config depends on max_position_embeddings."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return False
    ropes = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(
        part.get("rope_type") in _SCALED_BY_LENGTH
        or (part.get("rope_type") == "yarn" and part.get("factor") is None)
        for part in ropes
    )


def _mentions(config_class: type[Any], key: str) -> bool:
    """Return whether the model code that belongs to a config class mentions a key."""
    file = Path(inspect.getfile(config_class))
    code = file.with_name(file.name.replace("configuration_", "modeling_"))
    try:
        text = code.read_text(encoding="utf-8")
    except OSError:
        return True
    return re.search(rf"\b{re.escape(key)}\b", text) is not None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
