"""Load the tokenizers of model folders, combine the tokens of several, and compare their splits.

Tokenizers with the same vocabulary may have other merges, another normalizer or another
pre-tokenizer. A merge has one tokenizer, and a model that was trained with another one then reads
sequences of tokens that it does not know.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_TEXTS = (
    "The price isn't 1,234.50 dollars, it's 98765!",
    "HELLO World, iPhone",
    "  two  spaces,\ttab\n\n  line",
    "naïve café ﬁne ＡＢＣ １２３",
    "你好，世界 こんにちは",
    "def f(x_1):\n    return x_1**2 != 10",
    "https://example.com/a-b_c?d=1&e=2",
)
_PROBES = 400
"""The number of tokens whose texts, alone and in pairs, are split too."""
_MAX_SHOWN = 12
"""The number of tokens of a split that a message shows."""


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


@dataclass(frozen=True)
class Difference:
    """A text and its tokens in two tokenizers; None if a tokenizer cannot split it."""

    text: str
    first: list[str] | None
    second: list[str] | None


def first_difference(first: Any, second: Any) -> Difference | None:
    """Return a text that two tokenizers split into different tokens; None if none was found.

    The texts have the usual peculiarities, and those of tokens that are spread evenly over the
    vocabulary of the first tokenizer. Special tokens are neither added nor compared.
    """
    for text in itertools.chain(_TEXTS, _token_texts(first)):
        split = Difference(text, _tokens(first, text), _tokens(second, text))
        if split.first != split.second:
            return split
    return None


def listed(tokens: list[str] | None) -> str:
    """Return the tokens of a split for a message."""
    if tokens is None:
        return "not possible"
    more = " ..." if len(tokens) > _MAX_SHOWN else ""
    return " ".join(f"[{token[:40]}]" for token in tokens[:_MAX_SHOWN]) + more


def _token_texts(tokenizer: Any) -> Iterator[str]:
    """Yield the texts of some tokens, and of pairs of them."""
    added = set(tokenizer.added_tokens_decoder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, number in vocabulary if number not in added]
    chosen = tokens[:: max(1, len(tokens) // _PROBES)]
    texts = [tokenizer.convert_tokens_to_string([token]) for token in chosen]
    yield from texts
    yield from (one + other for one, other in itertools.pairwise(texts))


def _tokens(tokenizer: Any, text: str) -> list[str] | None:
    """Return the tokens of a text; None if the tokenizer cannot split it."""
    try:
        ids = tokenizer.encode(text, add_special_tokens=False)
        tokens: list[str] = tokenizer.convert_ids_to_tokens(ids)
    except BaseException as error:  # a bare Exception, for example without an unknown token
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        return None
    return tokens
