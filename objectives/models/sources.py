"""The checkpoints of a study, checked against each other.

Their tensors are read with rows in the order of the merge's vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.errors import SourceError
from objectives.files.model_files import CONFIG

from .checkpoint import DTYPES, Checkpoint
from .compatibility import check_compatible, vocabulary_size, without_axis
from .layout import TensorInfo, empty_model, weights_of
from .model_config import POSITIONS, differences, parse, with_positions, without_foreign
from .special_tokens import EndTokens, end_tokens, without_invalid_pad
from .vocabulary import BASE, MODEL, Vocabulary, vocabulary

L1NormTables = dict[tuple[int, str, str], tuple[NDArray[np.int64], float]]
"""For each mask seed, model label and tensor name: the L1 norms, one for each random draw, and
their quantum, the value of one unit of these integers. objectives/merge/fused.py computes them."""


class Sources:
    """The checkpoints of a study, checked against each other.

    The reference is the base or, if there is none, the first model. The merge has the reference's
    architecture and tensor names and, by default, the reference's vocabulary.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        reference: str,
        tokenizer_source: str = BASE,
        has_base: bool = True,
        config_source: str | None = None,
    ) -> None:
        """Open every folder and check each model against the reference. Raises SourceError.

        `tokenizer_source` is `base`, `union` or `model:LABEL`, as in vocabulary.py. If `has_base`
        is true, the reference is the base of the merge. `config_source` is the label of the model
        whose position settings (the keys in model_config.POSITIONS) the merge uses. If it is None,
        models whose position settings differ are refused.
        """
        own = tokenizer_source == MODEL + reference
        self.tokenizer_source, self.has_base = BASE if own else tokenizer_source, has_base
        self.config_source = config_source
        self.norm_tables: L1NormTables = {}
        """The L1 norms that merges with DARE have computed; engines and exports share them."""
        self.checkpoints = {label: Checkpoint(label, path) for label, path in folders.items()}
        self.reference = self.checkpoints[reference]
        self.num_layers, self.layout = self._read_layout()
        for checkpoint in self.checkpoints.values():
            check_compatible(checkpoint, self.reference, self.layout, config_source)
        checkpoints = list(self.checkpoints.values())
        sizes = {c.label: vocabulary_size(c, self.layout) for c in checkpoints}
        self.vocabulary: Vocabulary = vocabulary(
            checkpoints, sizes, self.reference, self.tokenizer_source, has_base
        )
        self.layout = tuple(self._sized(info) for info in self.layout)
        self.ends = self.end_tokens()
        """The tokens that end the answers of merges."""

    def _read_layout(self) -> tuple[int, tuple[TensorInfo, ...]]:
        reference = self.reference
        path = reference.folder / CONFIG
        num_layers, weights = weights_of(
            reference.label, path, reference.architecture, reference.parsed, reference.names
        )
        layout = []
        for layer, weight in weights:
            if weight.optional and not any(c.has_own(weight) for c in self.checkpoints.values()):
                continue
            stored = reference.stored_name(weight)
            if stored is None:
                raise SourceError(f"{reference.label}: tensor {weight.name} is missing")
            layout.append(TensorInfo(weight.name, layer, reference.shape(stored), weight))
        return num_layers, tuple(layout)

    def _sized(self, info: TensorInfo) -> TensorInfo:
        """Return the tensor's info with the merge's number of rows."""
        axis = info.weight.vocabulary_axis
        if axis is None:
            return info
        shape = (*info.shape[:axis], self.vocabulary.size, *info.shape[axis + 1 :])
        return dataclasses.replace(info, shape=shape)

    def check_values(self) -> None:
        """Read every tensor and check that all its values are finite. Raises SourceError."""
        for checkpoint in self.checkpoints.values():
            for info in self.layout:
                name = checkpoint.stored_name(info.weight)
                assert name is not None
                if not torch.isfinite(checkpoint.read(name)).all():
                    raise SourceError(f"{checkpoint.label}: tensor {name} contains NaN or infinity")

    def read(self, label: str, info: TensorInfo) -> Tensor:
        """Return a tensor of a model, with its rows in the order of the merge's vocabulary."""
        tensor = self._stored(label, info)
        axis, rows = info.weight.vocabulary_axis, self.vocabulary.rows[label]
        if axis is None or rows is None:
            return tensor
        aligned = tensor.movedim(axis, 0).index_select(0, rows.clamp(min=0))
        aligned = aligned.to(self.dtype(label, info))
        absent = self.vocabulary.absent(label)
        if len(absent):
            aligned[absent] = self._fill(info, axis, absent).to(aligned.dtype)
        return aligned.movedim(0, axis)

    def _fill(self, info: TensorInfo, axis: int, indices: Tensor) -> Tensor:
        """Return the rows of the merge at `indices`, each as the mean of its donors' rows.

        A row without a donor is zero.
        """
        filled = torch.zeros(len(indices), *without_axis(info.shape, axis))
        counts = torch.zeros(len(indices))
        for label, donates in self.vocabulary.donors.items():
            from_donor = donates[indices]
            if not from_donor.any():
                continue
            rows = self.vocabulary.rows[label]
            own = indices[from_donor] if rows is None else rows[indices[from_donor]]
            donated = self._stored(label, info).movedim(axis, 0).index_select(0, own)
            filled = filled.to(torch.promote_types(filled.dtype, donated.dtype))
            filled[from_donor] += donated
            counts += from_donor
        return filled / counts.clamp(min=1).view(-1, *[1] * (filled.ndim - 1))

    def dtype(self, label: str, info: TensorInfo) -> torch.dtype:
        """Return the dtype of the tensor that `read` returns; only headers are read."""
        own = self._header_dtype(label, info)
        absent = self.vocabulary.absent(label)
        if info.weight.vocabulary_axis is None or not self.vocabulary.widens_dtype:
            return own
        counts = torch.zeros(len(absent))
        for donor, donates in self.vocabulary.donors.items():
            if donates[absent].any():
                own = torch.promote_types(own, self._header_dtype(donor, info))
                counts += donates[absent]
        return torch.promote_types(own, torch.float32) if (counts > 1).any() else own

    def _header_dtype(self, label: str, info: TensorInfo) -> torch.dtype:
        checkpoint = self.checkpoints[label]
        name = checkpoint.stored_name(info.weight)
        assert name is not None
        return DTYPES[checkpoint.dtype(name)]

    def _stored(self, label: str, info: TensorInfo) -> Tensor:
        checkpoint = self.checkpoints[label]
        name = checkpoint.stored_name(info.weight)
        assert name is not None
        return checkpoint.read(name)

    def rows_of(self, label: str) -> list[int] | None:
        """Return the index of the model's row for each row of the merge, -1 if there is none.

        Returns None if the model has the same rows as the merge, in the same order.
        """
        rows = self.vocabulary.rows[label]
        return None if rows is None else rows.tolist()

    @property
    def vocabularies_differ(self) -> bool:
        """Whether the vocabulary of any model differs from that of the merge."""
        return any(rows is not None for rows in self.vocabulary.rows.values())

    @property
    def tokenizer_checkpoint(self) -> Checkpoint:
        """The model whose token ids and special tokens the merge has."""
        if not self.tokenizer_source.startswith(MODEL):
            return self.reference
        return self.checkpoints[self.tokenizer_source.removeprefix(MODEL)]

    def config_label(self, copied_model: str | None) -> str:
        """Return the label of a model that has the position settings of a merge.

        `copied_model` is the label of a model that is evaluated without merging, with its own
        position settings, or None for a merge of several models.
        """
        return self.config_labels.get(copied_model or "", self.config_label_of_merges)

    @cached_property
    def config_labels(self) -> dict[str, str]:
        """For each model, the label of the first model with the same position settings.

        `config_label_of_merges` is first in the order.
        """
        order = dict.fromkeys([self.config_label_of_merges, *self.checkpoints])
        return {label: next(o for o in order if self._same_positions(o, label)) for label in order}

    @property
    def own_config_labels(self) -> dict[str, str]:
        """The items of `config_labels` whose position settings differ from those of merges."""
        merges = self.config_label_of_merges
        return {label: own for label, own in self.config_labels.items() if own != merges}

    @property
    def config_label_of_merges(self) -> str:
        """The label of the model that sets the position settings of merges of several models."""
        return self.config_source or self.reference.label

    def _same_positions(self, one: str, other: str) -> bool:
        ours, theirs = (self.checkpoints[label].parsed for label in (one, other))
        return not differences(ours, theirs).keys() & POSITIONS

    def merged_config(self, dtype: str, label: str | None = None) -> dict[str, Any]:
        """Return the config.json of a merge.

        It is the reference's, with the position settings of the model `label` and with the size and
        the special tokens of the merge's vocabulary. The head is untied if it is untied in any
        model. `label` is the merge's `config_label`, or None for a merge of several models.
        """
        config = without_foreign(self.reference.config)
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        config["architectures"] = [self.reference.architecture]
        source = label or self.config_label_of_merges
        if not self._same_positions(source, self.reference.label):
            config = with_positions(config, self.checkpoints[source].parsed)
        if any(info.weight.tied_names for info in self.layout):
            config["tie_word_embeddings"] = False
        if self.tokenizer_source != BASE:
            config["vocab_size"] = self.vocabulary.size
            own = self.tokenizer_checkpoint.config
            special = [key for key in {**config, **own} if key.endswith("_token_id")]
            config |= {key: own.get(key) for key in special}
        return without_invalid_pad(config, self.vocabulary.size)

    def end_tokens(self, use_generation_config: bool = True) -> EndTokens:
        """Return the tokens that end an answer.

        If `use_generation_config` is false, generation_config.json is ignored. Raises SourceError.
        """
        checkpoint, config = self.tokenizer_checkpoint, self.merged_config("float32")
        size = self.vocabulary.size
        return end_tokens(checkpoint.label, checkpoint.folder, config, size, use_generation_config)

    def parsed_config(self, dtype: str, label: str | None = None) -> Any:
        """Return `merged_config` as transformers parses it."""
        path = self.reference.folder / CONFIG
        return parse(self.reference.label, path, self.merged_config(dtype, label))

    def check_model(self) -> None:
        """Check that config.json describes the tensors' names and shapes. Raises SourceError."""
        label, path = self.reference.label, self.reference.folder / CONFIG
        model = empty_model(label, path, self.parsed_config("float32"))
        expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
        merged = {info.name: info.shape for info in self.layout}
        for name in [*expected, *merged]:
            pair = merged.get(name), expected.get(name)
            if pair[0] != pair[1]:
                shapes = ["missing" if shape is None else list(shape) for shape in pair]
                raise SourceError(
                    f"{label}: tensor {name} is {shapes[0]} in the model's files, but {shapes[1]} "
                    f"in the model that {path} describes"
                )
