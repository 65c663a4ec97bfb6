"""Extract the text part of a model that also reads images, as a language model of its own.

Its config is that of the text part, and its tensors get the names of the language model, so that it
is merged, run and exported as one. The vision part is left out.
"""

import re
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from objectives.errors import SourceError

from .model_config import FOREIGN

_EQUIVALENT = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text parts without a language model in transformers, and the equivalent model types. The tokens
of a text have the same position in all three parts of the multimodal rope."""
_LABELS = ("id2label", "label2id")
"""Keys of classifiers."""
_IMAGE_ONLY = ("mrope_section", "mrope_interleaved")
_PREFIXES = (
    (re.compile(r"^(?:model\.)?language_model\.(model|lm_head)\."), r"\1."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^(?:model\.)?text_model\."), "model."),
)


def text_config(label: str, path: Path, parsed: Any) -> dict[str, Any] | None:
    """Return the config.json of the text part; None if the model reads only text.

    Raises SourceError.
    """
    if "text_config" not in type(parsed).sub_configs:
        return None
    text: Any = getattr(parsed, "text_config", None)
    own_type = getattr(text, "model_type", None)
    model_type = _EQUIVALENT.get(str(own_type), str(own_type))
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if not isinstance(architecture, str):
        raise SourceError(
            f"{label}: {path}: {parsed.model_type} has no text part that transformers can run as a "
            f"language model ({own_type})"
        )
    config = {
        key: value for key, value in text.to_dict().items() if key not in (*FOREIGN, *_LABELS)
    }
    rope = config.get("rope_parameters")
    if model_type != own_type and isinstance(rope, dict):
        text_rope = {k: value for k, value in rope.items() if k not in (*_IMAGE_ONLY, "type")}
        config["rope_parameters"] = text_rope | (
            {"rope_type": "default"} if text_rope.get("rope_type") == "mrope" else {}
        )
    special: dict[str, Any] = {
        key: value
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(key) is None and (value := getattr(parsed, key, None)) is not None
    }
    tied = any(getattr(part, "tie_word_embeddings", False) for part in (parsed, text))
    special["tie_word_embeddings"] = tied
    return config | special | {"model_type": model_type, "architectures": [architecture]}


def text_name(stored: str) -> str:
    """Return a tensor's name in the language model, from its name in the file."""
    for pattern, replacement in _PREFIXES:
        if pattern.match(stored):
            return pattern.sub(replacement, stored)
    return stored
