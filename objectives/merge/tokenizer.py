"""Vocabularies differ between finetunes: rows of embedding and head are brought into line.

The merge keeps the reference's vocabulary. Each of its tokens takes the row that the model
gives the same token; a token that the model lacks takes the reference's own row, which leaves
it out of the merge.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

log = logging.getLogger(__name__)

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def row_map(reference: Path, model: Path, reference_rows: int, model_rows: int) -> Tensor | None:
    """For each row of the reference the model's row, -1 where it has none; None if all agree.

    Rows without a token (padding) keep their number. A folder without a tokenizer is taken to
    number its tokens like the reference.
    """
    if reference == model:
        return None
    ours, theirs = _vocabulary(reference), _vocabulary(model)
    rows = torch.arange(reference_rows)
    if ours is not None and theirs is not None:
        for token, row in ours.items():
            if row < reference_rows:
                rows[row] = theirs.get(token, -1)
    rows[rows >= model_rows] = -1
    absent = int((rows < 0).sum())
    if absent:
        log.info("%s: %d tokens take the rows of %s", model.name, absent, reference.name)
    unchanged = reference_rows == model_rows and torch.equal(rows, torch.arange(reference_rows))
    return None if unchanged else rows


def align(tensor: Tensor, reference: Tensor, rows: Tensor, axis: int) -> Tensor:
    """The model's tensor in the reference's rows."""
    picked = tensor.index_select(axis, rows.clamp(min=0))
    absent = (rows < 0).view([-1 if a == axis else 1 for a in range(tensor.ndim)])
    return torch.where(absent, reference.to(picked.dtype), picked)


def _vocabulary(folder: Path) -> dict[str, int] | None:
    if not any((folder / name).exists() for name in _FILES):
        return None
    vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return vocabulary
