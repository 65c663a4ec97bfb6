"""Tokenizers of model folders, and the one that has the tokens of several."""

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
"""What the tokenizers library raises for some broken files; it is no Exception."""
_ANY_OF = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_tokenizer(label: str, folder: Path) -> Any:
    """The folder's tokenizer, None where it has no files of one. Raises SourceError."""
    if not any((folder / name).exists() for name in _ANY_OF):
        return None
    _check_code(label, folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except BaseException as error:  # broken files raise whatever their parser raises
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{label}: cannot load the tokenizer of {folder}: {reason}") from None


def _check_code(label: str, folder: Path) -> None:
    """Say so if a tokenizer needs code that comes with it."""
    path = folder / TOKENIZER_CONFIG
    settings = read_json(label, path) if path.exists() else {}
    kind = settings.get("tokenizer_class")
    if "auto_map" not in settings or (folder / "tokenizer.json").exists():
        return
    if not isinstance(kind, str) or tokenizer_class_from_name(kind) is None:
        raise SourceError(
            f"{label}: the tokenizer of {folder}, {kind!r}, needs code that comes with the model "
            "(auto_map), and such code is never run; save it as a tokenizer.json"
        )


def add_tokens_of(tokenizer: Any, others: Sequence[Any], rows: Mapping[int, int]) -> None:
    """Add each other tokenizer's further tokens to the first, in the order of the tokenizers and
    of their numbers.

    `rows` says how many rows the model of each has: a token beyond them is left out. What a
    tokenizer calls an added token keeps its flags; other tokens become plain added tokens, which
    match where they stand, as in mergekit.
    """
    known = set(tokenizer.get_vocab())
    for i, other in enumerate(others):
        added = other.added_tokens_decoder
        ordered = sorted(other.get_vocab().items(), key=lambda item: item[1])
        new = [
            added.get(row, token) for token, row in ordered if token not in known and row < rows[i]
        ]
        if new:
            log.info("the merge takes %d tokens of %s", len(new), other.name_or_path)
            tokenizer.add_tokens(new)
            known = set(tokenizer.get_vocab())
