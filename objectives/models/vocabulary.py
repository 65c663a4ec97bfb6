"""The rows of a merge's embedding and head, if the vocabularies of its models differ.

The reference is the base or, if there is none, the first model.

`base`: the reference's tokens in the reference's rows, including padding. For a token that a model
lacks, the model gets the reference's row, so that it does not change that row of the merge.

`union`: the reference's tokens, then the additional tokens of each model, in the order of the
models and of their rows. `model:LABEL`: that model's tokens in that model's rows. In both, there is
no padding, and rows that a model lacks are filled as in mergekit: from the base if it has the
token, else with the mean of the rows of all models that have it, or with zeros if none has it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from objectives.errors import SourceError

from .tokenizer import add_tokens_of, first_difference, listed, load_tokenizer

log = logging.getLogger(__name__)

BASE, UNION, MODEL = "base", "union", "model:"


class Model(Protocol):
    """The part of a checkpoint that this module uses."""

    label: str
    folder: Path


@dataclass(frozen=True)
class Vocabulary:
    """The merge's rows. Tensors are indexed by row, mappings by the model's label."""

    size: int
    rows: Mapping[str, Tensor | None]
    """The model's row for each row of the merge, -1 if it has none. None if the model has
    exactly the merge's rows, in the same order."""
    donors: Mapping[str, Tensor]
    """For each row of the merge, whether this model's row contributes to the value given to models
    without that row."""
    widens_dtype: bool
    """Whether a filled row may need a wider dtype than the model has."""
    tokenizer: Any
    """The merge's tokenizer; None if the reference has none."""

    def absent(self, model: str) -> Tensor:
        """Return the indices of the rows that the model lacks."""
        rows = self.rows[model]
        return torch.empty(0, dtype=torch.int64) if rows is None else (rows < 0).nonzero()[:, 0]


def vocabulary(
    models: Sequence[Model], sizes: Mapping[str, int], reference: Model, source: str, has_base: bool
) -> Vocabulary:
    """Return the merge's vocabulary.

    `sizes` are the numbers of rows of each model's embedding. With `has_base` the reference is the
    base. A model without tokenizer files is assumed to have the reference's token ids. Raises
    SourceError.
    """
    tokenizers = {model.label: load_tokenizer(model.label, model.folder) for model in models}
    merged = _merged(models, sizes, reference, source, has_base, tokenizers)
    _warn_of_other_splits(merged.tokenizer, tokenizers)
    return merged


def _warn_of_other_splits(merged: Any, tokenizers: Mapping[str, Any]) -> None:
    """Log a warning for each model whose tokenizer splits text differently from the merge's."""
    for label, tokenizer in tokenizers.items():
        if merged is None or tokenizer is None or tokenizer is merged:
            continue
        if difference := first_difference(merged, tokenizer):
            log.warning(
                "the tokenizer of %s splits text differently from the merge's, so that its weights "
                "may not suit the merge's prompts: %r is %s for %s, but %s for the merge",
                *(label, difference.text, listed(difference.second), label),
                listed(difference.first),
            )


def _merged(
    models: Sequence[Model],
    sizes: Mapping[str, int],
    reference: Model,
    source: str,
    has_base: bool,
    tokenizers: Mapping[str, Any],
) -> Vocabulary:
    own = tokenizers[reference.label]
    if source == BASE:
        return _of_reference(models, sizes, reference, tokenizers)
    label_of_source = reference.label if source == UNION else source.removeprefix(MODEL)
    if own is None or tokenizers[label_of_source] is None:
        without = reference.label if own is None else label_of_source
        raise SourceError(
            f"{without}: tokenizer_source: {source} needs tokenizer files in the model's folder"
        )
    tokens = {label: (own if t is None else t).get_vocab() for label, t in tokenizers.items()}
    if source == UNION:
        others = [m.label for m in models if m is not reference and tokenizers[m.label] is not None]
        rows = {i: sizes[label] for i, label in enumerate(others)}
        add_tokens_of(own, [tokenizers[label] for label in others], rows)
        tokenizer = own
    else:
        tokenizer = tokenizers[label_of_source]
    return _aligned(tokenizer, tokens, sizes, reference.label if has_base else None)


def _of_reference(
    models: Sequence[Model],
    sizes: Mapping[str, int],
    reference: Model,
    tokenizers: Mapping[str, Any],
) -> Vocabulary:
    size, own = sizes[reference.label], tokenizers[reference.label]
    rows: dict[str, Tensor | None] = {reference.label: None}
    for model in models:
        other = tokenizers[model.label]
        if model is not reference:
            ids = None if own is None or other is None else other.get_vocab()
            of_model = _rows_of(
                {} if own is None else own.get_vocab(), ids, size, sizes[model.label]
            )
            rows[model.label] = of_model
            if of_model is not None and (absent := int((of_model < 0).sum())):
                log.info("%s: %d rows are taken from %s", model.label, absent, reference.label)
    every_row = torch.ones(size, dtype=torch.bool)
    return Vocabulary(size, rows, {reference.label: every_row}, False, own)


def _aligned(
    tokenizer: Any,
    tokens: Mapping[str, Mapping[str, int]],
    sizes: Mapping[str, int],
    base: str | None,
) -> Vocabulary:
    merged: dict[str, int] = tokenizer.get_vocab()
    size = max(merged.values()) + 1
    rows = {label: _rows_of(merged, tokens[label], size, sizes[label]) for label in tokens}
    has = {
        label: torch.ones(size, dtype=torch.bool) if r is None else r >= 0
        for label, r in rows.items()
    }
    donors = dict(has)
    if base is not None:
        donors = {label: own if label == base else own & ~has[base] for label, own in has.items()}
    for label, of_model in rows.items():
        if of_model is not None and (absent := int((of_model < 0).sum())):
            log.info("%s lacks the rows of %d tokens; they are filled", label, absent)
    return Vocabulary(size, rows, donors, True, tokenizer)


def _rows_of(
    merged: Mapping[str, int], ids: Mapping[str, int] | None, size: int, own_rows: int
) -> Tensor | None:
    """Return a model's row for each of the merge's `size` rows, -1 if it has none.

    `merged` and `ids` are the token ids of the merge and of the model, whose embedding has
    `own_rows` rows. Rows without a token keep their index, and all rows do if `ids` is None.
    Returns None if every row keeps its index.
    """
    rows = torch.arange(size)
    if ids is not None:
        for token, row in merged.items():
            if row < size:
                rows[row] = ids.get(token, -1)
    rows[rows >= own_rows] = -1
    return None if size == own_rows and torch.equal(rows, torch.arange(size)) else rows
