"""The text part of a model that reads images too: the language model in it, as a model of its own.

Its config is the text part's, and its tensors have the names that they have in such a language
model, so that it merges, runs and is exported as one. What sees is left out.
"""

import re
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from objectives.errors import SourceError

from .model_config import FOREIGN

_ALIKE = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text parts that transformers has no language model for, and what they are: a text has one
position where an image has three, so the three parts of their rope are alike."""
_LABELS = ("id2label", "label2id")
"""Of classifiers."""
_IMAGE_ONLY = ("mrope_section", "mrope_interleaved")
_PREFIXES = (
    (re.compile(r"^(?:model\.)?language_model\.(model|lm_head)\."), r"\1."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^(?:model\.)?text_model\."), "model."),
)


def text_config(label: str, path: Path, parsed: Any) -> dict[str, Any] | None:
    """The config.json of the text part; None if the model reads text alone. Raises SourceError."""
    if "text_config" not in type(parsed).sub_configs:
        return None
    text: Any = getattr(parsed, "text_config", None)
    kind = getattr(text, "model_type", None)
    plain = _ALIKE.get(str(kind), str(kind))
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(plain)
    if not isinstance(architecture, str):
        raise SourceError(
            f"{label}: {path}: {parsed.model_type} has no text part that transformers can run as a "
            f"language model ({kind})"
        )
    config = {
        key: value for key, value in text.to_dict().items() if key not in (*FOREIGN, *_LABELS)
    }
    rope = config.get("rope_parameters")
    if plain != kind and isinstance(rope, dict):
        kept = {key: value for key, value in rope.items() if key not in (*_IMAGE_ONLY, "type")}
        config["rope_parameters"] = kept | (
            {"rope_type": "default"} if kept.get("rope_type") == "mrope" else {}
        )
    special: dict[str, Any] = {
        key: value
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(key) is None and (value := getattr(parsed, key, None)) is not None
    }
    tied = any(getattr(part, "tie_word_embeddings", False) for part in (parsed, text))
    special["tie_word_embeddings"] = tied
    return config | special | {"model_type": plain, "architectures": [architecture]}


def text_name(stored: str) -> str:
    """A tensor's name in the language model, from its name in the file."""
    for pattern, replacement in _PREFIXES:
        if pattern.match(stored):
            return pattern.sub(replacement, stored)
    return stored
