"""Vocabularies differ between finetunes: rows of embedding and head are brought into line.

The merge keeps the reference's vocabulary. Each of its tokens takes the row that the model
gives the same token; a token that the model lacks takes the reference's own row, which leaves
it out of the merge.
"""

import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoTokenizer

from .errors import SourceError

log = logging.getLogger(__name__)

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class Model(Protocol):
    """What is needed of a checkpoint here."""

    label: str
    folder: Path


def row_map(reference: Model, model: Model, reference_rows: int, model_rows: int) -> Tensor | None:
    """For each row of the reference the model's row, -1 where it has none; None if all agree.

    Rows without a token (padding) keep their number. A folder without a tokenizer is taken to
    number its tokens like the reference.
    """
    if reference is model:
        return None
    ours, theirs = (load_tokenizer(m.label, m.folder) for m in (reference, model))
    rows = torch.arange(reference_rows)
    if ours is not None and theirs is not None:
        known = theirs.get_vocab()
        for token, row in ours.get_vocab().items():
            if row < reference_rows:
                rows[row] = known.get(token, -1)
    rows[rows >= model_rows] = -1
    absent = int((rows < 0).sum())
    if absent:
        log.info("%s: %d tokens take the rows of %s", model.label, absent, reference.label)
    unchanged = reference_rows == model_rows and torch.equal(rows, torch.arange(reference_rows))
    return None if unchanged else rows


def align(tensor: Tensor, reference: Tensor, rows: Tensor, axis: int) -> Tensor:
    """The model's tensor in the reference's rows."""
    picked = tensor.index_select(axis, rows.clamp(min=0))
    absent = (rows < 0).view([-1 if a == axis else 1 for a in range(tensor.ndim)])
    return torch.where(absent, reference.to(picked.dtype), picked)


def load_tokenizer(label: str, folder: Path) -> Any:
    """The folder's tokenizer, None where it has no files of one. Raises SourceError."""
    if not any((folder / name).exists() for name in _FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # broken files raise whatever their parser raises
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{label}: cannot load the tokenizer of {folder}: {reason}") from None
