"""What a model's config.json means: the values that transformers computes with.

Two configs that are spelled differently may mean the same, so they are compared as the classes of
transformers read them. No code that comes with a model is run.
"""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, __version__

from objectives.errors import SourceError

FOREIGN = (
    *("auto_map", "quantization_config", "transformers_weights", "configuration_files"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
"""Keys that name code, other files, or how weights were packed: no merge has them."""
POSITIONS = frozenset(
    {"rope_parameters", "sliding_window", "layer_types", "max_position_embeddings"}
)
"""How a model attends over positions. Models of one family differ here and are merged all the same,
so a study may say whose values the merge takes."""
_OLD_POSITIONS = (
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq"),
    *("use_sliding_window", "max_window_layers", "sliding_window_pattern"),
)
"""Spellings that the class of a config turns into those."""
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
        *("embd_pdrop", "resid_pdrop", "attn_pdrop", "router_aux_loss_coef", "tie_encoder_decoder"),
    }
)
"""Keys that change no answer, or whose differences the merge resolves: the vocabulary, and tied
heads."""
_BOOKKEEPING_PATTERN = re.compile(r".*_token_(id|index)|.*dropout(_prob|_rate)?|.*_use_cache")
_LAYER_COUNT = re.compile(r"(.*_)?(n|num)_(.*_)?layers?")
_MOST_LAYERS = 2048
_SCALED_BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Kinds of rope that read max_position_embeddings; yarn does so if it has no factor."""


def parse(label: str, path: Path, data: Mapping[str, Any]) -> Any:
    """The config as transformers reads it. Raises SourceError."""
    kind = _model_type(label, path, data)
    _check_counts(label, path, data)
    if kind == "mistral" and "layer_types" in data:
        kind = "ministral"  # as AutoConfig reads it
    kept = {
        key: value
        for key, value in data.items()
        if key
        not in (*FOREIGN, "model_type", "torch_dtype", "dtype", "num_labels", "per_layer_config")
    }
    try:
        return CONFIG_MAPPING[kind](**copy.deepcopy(kept))
    except Exception as error:  # the classes raise whatever a field's check raises
        raise SourceError(f"{label}: cannot use {path}: {_reason(error)}") from None


def without_foreign(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that no merge has."""
    return {key: value for key, value in data.items() if key not in FOREIGN}


def differences(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """The keys of two parsed configs whose values differ in what is computed, with both values.

    A key that neither the config's class declares nor the model's code mentions computes nothing.
    """
    length = max(_context(ours), _context(theirs))
    first, second = (dict(_computing(config, length)) for config in (ours, theirs))
    keys = [key for key in {**first, **second} if _differ(first.get(key), second.get(key))]
    if not (_scaled(ours) or _scaled(theirs)):
        keys = [key for key in keys if key != "max_position_embeddings"]
    return {
        key: (first.get(key), second.get(key))
        for key in keys
        if key in type(ours).__dataclass_fields__ or key == "head_dim" or _mentions(type(ours), key)
    }


def told(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in words, those inside of mappings alone."""
    parts = []
    for key, (ours, theirs) in differing.items():
        if isinstance(ours, dict) and isinstance(theirs, dict):
            inside = {
                f"{key}.{name}": (ours.get(name), theirs.get(name))
                for name in {**ours, **theirs}
                if _differ(ours.get(name), theirs.get(name))
            }
            parts.append(told(inside))
        else:
            parts.append(f"{key} {_short(ours)} and {_short(theirs)}")
    return ", ".join(parts[:8])


def positions(config: Any) -> dict[str, Any]:
    """How a parsed config attends over positions, in the spelling of transformers 5."""
    values = config.to_dict()
    return {key: values[key] for key in sorted(POSITIONS) if key in values}


def with_positions(data: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A config.json's mapping with the positions of a parsed config."""
    kept = {key: value for key, value in data.items() if key not in _OLD_POSITIONS}
    return kept | positions(config)


def _model_type(label: str, path: Path, data: Mapping[str, Any]) -> str:
    kind, own_code = data.get("model_type"), data.get("auto_map")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return kind
    named = f"model_type {_short(kind)}" if kind is not None else "a model without a model_type"
    if own_code:
        raise SourceError(
            f"{label}: {path}: {named} needs code that comes with the model (auto_map), and such "
            f"code is never run; transformers {__version__} itself does not have this model"
        )
    if kind is None:
        raise SourceError(f"{label}: {path} has no model_type; is it the config.json of a model?")
    raise SourceError(f"{label}: {path}: {named} is not one that transformers {__version__} has")


def _check_counts(label: str, path: Path, data: Mapping[str, Any]) -> None:
    """Refuse numbers over which a class would loop for minutes, in parts of the model too."""
    for key, value in data.items():
        if isinstance(value, dict):
            _check_counts(label, path, value)
        counts = key == "num_labels" or _LAYER_COUNT.fullmatch(str(key))
        if counts and isinstance(value, int | float) and not -1 <= value <= _MOST_LAYERS:
            raise SourceError(
                f"{label}: {path}: {key}: {_short(value)}; must be at most {_MOST_LAYERS}"
            )


def _context(config: Any) -> float:
    """Tokens that a model takes at most."""
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) else math.inf


def _computing(config: Any, length: float) -> Iterator[tuple[str, Any]]:
    """The values that are computed with, for prompts of up to `length` tokens: a sliding window at
    least that long is none."""
    values = config.to_dict()
    window = values.get("sliding_window")
    if isinstance(window, int) and window >= length:
        values["sliding_window"] = None
        if isinstance(kinds := values.get("layer_types"), list):
            full, sliding = "full_attention", "sliding_attention"
            values["layer_types"] = [full if kind == sliding else kind for kind in kinds]
    if values.get("head_dim") is None and getattr(config, "num_attention_heads", None):
        values["head_dim"] = config.hidden_size // config.num_attention_heads
    for key, value in values.items():
        private = key.startswith("_") or key in _BOOKKEEPING
        if value is not None and not private and not _BOOKKEEPING_PATTERN.fullmatch(key):
            yield key, _plain(value)


def _plain(value: Any) -> Any:
    """Nested values without what is None, and without the old name of rope_type."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None and k != "type"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _differ(ours: Any, theirs: Any) -> bool:
    same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)
    return not (same or (ours != ours and theirs != theirs))


def _scaled(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return False
    inside = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(
        part.get("rope_type") in _SCALED_BY_LENGTH
        or (part.get("rope_type") == "yarn" and part.get("factor") is None)
        for part in inside
    )


def _mentions(kind: type[Any], key: str) -> bool:
    """Whether the code of the model of a config class has a word for a key."""
    import inspect

    file = Path(inspect.getfile(kind))
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
