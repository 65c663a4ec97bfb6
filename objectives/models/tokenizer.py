"""Tokenizers of model folders, and the one that has the tokens of several."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from objectives.errors import SourceError

log = logging.getLogger(__name__)

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_ANY_OF = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_tokenizer(label: str, folder: Path) -> Any:
    """The folder's tokenizer, None where it has no files of one. Raises SourceError."""
    if not any((folder / name).exists() for name in _ANY_OF):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # broken files raise whatever their parser raises
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{label}: cannot load the tokenizer of {folder}: {reason}") from None


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
