"""Load the tokenizers of model folders, and combine the tokens of several."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from objectives.errors import SourceError
from objectives.files.model_files import TOKENIZER_CONFIG, read_json

log = logging.getLogger(__name__)

_PANIC = "PanicException"
"""The tokenizers library raises this for some damaged files; it is not an Exception."""
_MAX_ID = 1 << 24
"""No vocabulary has so many tokens, and some computations take time and memory for each id."""
_ANY_OF = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_tokenizer(label: str, folder: Path) -> Any:
    """Return a folder's tokenizer; None if it has no tokenizer files. Raises SourceError."""
    if not any((folder / name).exists() for name in _ANY_OF):
        return None
    _check_code(label, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except BaseException as error:  # damaged files may cause any error
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{label}: cannot load the tokenizer of {folder}: {reason}") from None
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", 0))
    if number >= _MAX_ID:
        raise SourceError(
            f"{label}: the tokenizer of {folder} gives token {token!r} the id {number}; ids must "
            f"be below {_MAX_ID}"
        )
    return tokenizer


def _check_code(label: str, folder: Path) -> None:
    """Check that a tokenizer needs no code that comes with it. Raises SourceError."""
    path = folder / TOKENIZER_CONFIG
    settings = read_json(label, path) if path.exists() else {}
    class_name = settings.get("tokenizer_class")
    if "auto_map" not in settings or (folder / "tokenizer.json").exists():
        return
    if not isinstance(class_name, str) or tokenizer_class_from_name(class_name) is None:
        raise SourceError(
            f"{label}: the tokenizer of {folder}, {class_name!r}, needs code that comes with the "
            "model (auto_map), and such code is never run; save it as a tokenizer.json"
        )


def add_tokens_of(tokenizer: Any, others: Sequence[Any], rows: Mapping[int, int]) -> None:
    """Add the tokens of other tokenizers, in the order of the tokenizers and of the token ids.

    `rows` are the rows of each tokenizer's model, by its index; tokens beyond them are left out.
    Added tokens keep their flags. As in mergekit, other tokens become added tokens without flags,
    which match anywhere in a text.
    """
    existing = set(tokenizer.get_vocab())
    for i, other in enumerate(others):
        added = other.added_tokens_decoder
        ordered = sorted(other.get_vocab().items(), key=lambda item: item[1])
        new = [
            added.get(row, token)
            for token, row in ordered
            if token not in existing and row < rows[i]
        ]
        if new:
            log.info("added %d tokens of %s to the merge", len(new), other.name_or_path)
            tokenizer.add_tokens(new)
            existing = set(tokenizer.get_vocab())
