"""Vocabularies differ between finetunes: which rows embedding and head of a merge have.

`base`: the reference's tokens in the reference's rows, padding and all. A token that a model
lacks takes the reference's own row there, which leaves it out of the merge.

`union`: those tokens, then each model's further ones in the order of the models, by row.
`model:LABEL`: that model's tokens in that model's rows. In both a token that a model lacks is
filled as mergekit fills it: by the row of the only model that has it, by the base's row if that has
it, else by the mean of the rows of all that have it; by zeros where nobody does. There is no
padding.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from objectives.errors import SourceError

from .tokenizer import add_tokens_of, load_tokenizer

log = logging.getLogger(__name__)

BASE, UNION, MODEL = "base", "union", "model:"


class Model(Protocol):
    """What is needed of a checkpoint here."""

    label: str
    folder: Path


@dataclass(frozen=True)
class Vocabulary:
    """Rows are numbered as in the merge, models are labels."""

    size: int
    rows: Mapping[str, Tensor | None]
    """For each row the model's row, -1 where it has none; None where all rows agree."""
    givers: Mapping[str, Tensor]
    """For each row whether the model's is among those that fill it where another model has none."""
    fills_exactly: bool
    """Whether a filled row may need more bits than the model's own have."""
    tokenizer: Any
    """The merge's tokenizer, None where the reference has none."""

    def absent(self, model: str) -> Tensor:
        """The rows that the model lacks."""
        rows = self.rows[model]
        return torch.empty(0, dtype=torch.int64) if rows is None else (rows < 0).nonzero()[:, 0]


def vocabulary(
    models: Sequence[Model], sizes: Mapping[str, int], reference: Model, source: str, has_base: bool
) -> Vocabulary:
    """The merge's rows. `sizes` are the rows of each model's embedding; the reference counts as a
    base with `has_base`. A folder without a tokenizer is taken to number its tokens like the
    reference. Raises SourceError.
    """
    tokenizers = {model.label: load_tokenizer(model.label, model.folder) for model in models}
    ours = tokenizers[reference.label]
    if source == BASE:
        return _of_reference(models, sizes, reference, tokenizers)
    named = reference.label if source == UNION else source.removeprefix(MODEL)
    if ours is None or tokenizers[named] is None:
        lacking = reference.label if ours is None else named
        raise SourceError(f"{lacking}: tokenizer_source: {source} wants tokenizer files there")
    tokens = {label: (ours if t is None else t).get_vocab() for label, t in tokenizers.items()}
    if source == UNION:
        others = [m.label for m in models if m is not reference and tokenizers[m.label] is not None]
        rows = {i: sizes[label] for i, label in enumerate(others)}
        add_tokens_of(ours, [tokenizers[label] for label in others], rows)
        tokenizer = ours
    else:
        tokenizer = tokenizers[named]
    return _aligned(tokenizer, tokens, sizes, reference.label if has_base else None)


def _of_reference(
    models: Sequence[Model],
    sizes: Mapping[str, int],
    reference: Model,
    tokenizers: Mapping[str, Any],
) -> Vocabulary:
    size, ours = sizes[reference.label], tokenizers[reference.label]
    rows: dict[str, Tensor | None] = {reference.label: None}
    for model in models:
        theirs = tokenizers[model.label]
        if model is not reference:
            known = None if ours is None or theirs is None else theirs.get_vocab()
            found = _rows_of(
                {} if ours is None else ours.get_vocab(), known, size, sizes[model.label]
            )
            rows[model.label] = found
            if found is not None and (absent := int((found < 0).sum())):
                log.info("%s: %d tokens take the rows of %s", model.label, absent, reference.label)
    every = torch.ones(size, dtype=torch.bool)
    return Vocabulary(size, rows, {reference.label: every}, False, ours)


def _aligned(
    tokenizer: Any,
    tokens: Mapping[str, Mapping[str, int]],
    sizes: Mapping[str, int],
    base: str | None,
) -> Vocabulary:
    wanted: dict[str, int] = tokenizer.get_vocab()
    size = max(wanted.values()) + 1
    rows = {label: _rows_of(wanted, tokens[label], size, sizes[label]) for label in tokens}
    has = {
        label: torch.ones(size, dtype=torch.bool) if r is None else r >= 0
        for label, r in rows.items()
    }
    givers = dict(has)
    if base is not None:
        givers = {
            label: here if label == base else here & ~has[base] for label, here in has.items()
        }
    for label, found in rows.items():
        if found is not None and (absent := int((found < 0).sum())):
            log.info("%s: %d tokens of the merge are filled", label, absent)
    return Vocabulary(size, rows, givers, True, tokenizer)


def _rows_of(
    wanted: Mapping[str, int], known: Mapping[str, int] | None, size: int, own: int
) -> Tensor | None:
    """For each of `size` rows the row of a model that knows these tokens and has `own` rows.

    Rows without a token keep their number, and all do where no tokens are known.
    """
    rows = torch.arange(size)
    if known is not None:
        for token, row in wanted.items():
            if row < size:
                rows[row] = known.get(token, -1)
    rows[rows >= own] = -1
    return None if size == own and torch.equal(rows, torch.arange(size)) else rows
