"""The checkpoints of a study, checked against each other and read in line with the merge."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.errors import SourceError
from objectives.files.model_files import CONFIG

from .checkpoint import DTYPES, Checkpoint
from .layout import TensorInfo, empty_model, weights_of
from .model_config import POSITIONS, differences, parse, told, with_positions, without_foreign
from .special_tokens import EndTokens, end_tokens, without_stray_pad
from .vocabulary import BASE, MODEL, Vocabulary, vocabulary


class Sources:
    """The checkpoints of a study, checked against each other.

    The reference (the base, or else the first model) gives the merge its architecture and tensor
    names, and its vocabulary if that is not another's.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        reference: str,
        tokenizer_source: str = BASE,
        has_base: bool = True,
        config_source: str | None = None,
    ) -> None:
        """Open every folder and compare headers; raises SourceError.

        `tokenizer_source` is base, union or model:LABEL, as in vocabulary.py; with `has_base` the
        reference is the base of the merge. `config_source` is the label of the model whose
        positions (model_config.POSITIONS) the merge takes; None refuses models that differ there.
        """
        own = tokenizer_source == MODEL + reference
        self.tokenizer_source, self.has_base = BASE if own else tokenizer_source, has_base
        self.config_source = config_source
        self.checkpoints = {label: Checkpoint(label, path) for label, path in folders.items()}
        self.reference = self.checkpoints[reference]
        self.num_layers, self.layout = self._read_layout()
        for checkpoint in self.checkpoints.values():
            self._compare(checkpoint)
        checkpoints = list(self.checkpoints.values())
        sizes = {c.label: self._vocabulary_size(c) for c in checkpoints}
        self.vocabulary: Vocabulary = vocabulary(
            checkpoints, sizes, self.reference, self.tokenizer_source, has_base
        )
        self.layout = tuple(self._sized(info) for info in self.layout)
        self.ends = self.end_tokens()

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

    def _compare(self, checkpoint: Checkpoint) -> None:
        self._compare_configs(checkpoint)
        for info in self.layout:
            name = checkpoint.stored_name(info.weight)
            if name is None:
                raise SourceError(f"{checkpoint.label}: tensor {info.name} is missing")
            if checkpoint.dtype(name) not in DTYPES:
                raise SourceError(
                    f"{checkpoint.label}: tensor {name} is stored as {checkpoint.dtype(name)}; "
                    f"known are {', '.join(DTYPES)}"
                )
            shape = checkpoint.shape(name)
            if _without(shape, info.weight.vocabulary_axis) != _without(
                info.shape, info.weight.vocabulary_axis
            ):
                raise SourceError(
                    f"{checkpoint.label} and {self.reference.label} cannot be merged: "
                    f"tensor {info.name} is {list(shape)} and {list(info.shape)}"
                )

    def _compare_configs(self, checkpoint: Checkpoint) -> None:
        """Refuse a model that computes otherwise than the reference, and so than the merge would.

        With a config source, models may attend over positions in ways of their own.
        """
        reference = self.reference
        both = f"{checkpoint.label} and {reference.label} cannot be merged"
        if checkpoint.architecture != reference.architecture:
            raise SourceError(
                f"{both}: architectures {checkpoint.architecture} and {reference.architecture}"
            )
        differing = differences(checkpoint.parsed, reference.parsed)
        settled = differing.keys() & POSITIONS
        left = {key: pair for key, pair in differing.items() if key not in settled}
        if left:
            raise SourceError(f"{both}: their config.json differ in {told(left)}")
        if settled and self.config_source is None:
            raise SourceError(
                f"{both}: their config.json differ in {told(differing)}; if a merge makes sense "
                "nevertheless, genome.config_source: base or a model says whose values it takes"
            )

    def _vocabulary_size(self, checkpoint: Checkpoint) -> int:
        """Rows of its embedding and head."""
        found = {}
        for info in self.layout:
            axis, name = info.weight.vocabulary_axis, checkpoint.stored_name(info.weight)
            if axis is not None and name is not None:
                found[name] = checkpoint.shape(name)[axis]
        if len(set(found.values())) > 1:
            rows = ", ".join(f"{name} {size}" for name, size in found.items())
            raise SourceError(f"{checkpoint.label}: its vocabulary has no one size: {rows}")
        return next(iter(found.values()), 0)

    def _sized(self, info: TensorInfo) -> TensorInfo:
        """With the rows that the merge has."""
        axis = info.weight.vocabulary_axis
        if axis is None:
            return info
        shape = (*info.shape[:axis], self.vocabulary.size, *info.shape[axis + 1 :])
        return dataclasses.replace(info, shape=shape)

    def check_values(self) -> None:
        """Read every tensor once and refuse what is not finite."""
        for checkpoint in self.checkpoints.values():
            for info in self.layout:
                name = checkpoint.stored_name(info.weight)
                assert name is not None
                if not torch.isfinite(checkpoint.read(name)).all():
                    raise SourceError(f"{checkpoint.label}: tensor {name} holds NaN or infinity")

    def read(self, label: str, info: TensorInfo) -> Tensor:
        """One tensor of one model, its vocabulary in line with the merge's."""
        tensor = self._stored(label, info)
        axis, rows = info.weight.vocabulary_axis, self.vocabulary.rows[label]
        if axis is None or rows is None:
            return tensor
        picked = tensor.movedim(axis, 0).index_select(0, rows.clamp(min=0))
        picked = picked.to(self.dtype(label, info))
        absent = self.vocabulary.absent(label)
        if len(absent):
            picked[absent] = self._fill(info, axis, absent).to(picked.dtype)
        return picked.movedim(0, axis)

    def _fill(self, info: TensorInfo, axis: int, places: Tensor) -> Tensor:
        """Rows of the merge from the models that give them to others: the mean of these."""
        filled = torch.zeros(len(places), *_without(info.shape, axis))
        counts = torch.zeros(len(places))
        for label, gives in self.vocabulary.givers.items():
            chosen = gives[places]
            if not chosen.any():
                continue
            rows = self.vocabulary.rows[label]
            wanted = places[chosen] if rows is None else rows[places[chosen]]
            found = self._stored(label, info).movedim(axis, 0).index_select(0, wanted)
            filled = filled.to(torch.promote_types(filled.dtype, found.dtype))
            filled[chosen] += found
            counts += chosen
        return filled / counts.clamp(min=1).view(-1, *[1] * (filled.ndim - 1))

    def dtype(self, label: str, info: TensorInfo) -> torch.dtype:
        """What `read` gives, from headers alone."""
        own = self._header_dtype(label, info)
        absent = self.vocabulary.absent(label)
        if info.weight.vocabulary_axis is None or not self.vocabulary.fills_exactly:
            return own
        counts = torch.zeros(len(absent))
        for giver, gives in self.vocabulary.givers.items():
            if gives[absent].any():
                own = torch.promote_types(own, self._header_dtype(giver, info))
                counts += gives[absent]
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
        """For each row of the merge the model's row, -1 where it has none; None if all agree."""
        rows = self.vocabulary.rows[label]
        return None if rows is None else rows.tolist()

    @property
    def vocabularies_differ(self) -> bool:
        return any(rows is not None for rows in self.vocabulary.rows.values())

    @property
    def tokenizer_checkpoint(self) -> Checkpoint:
        """The model whose numbers the merge's tokens begin with: its special tokens are the
        merge's."""
        if not self.tokenizer_source.startswith(MODEL):
            return self.reference
        return self.checkpoints[self.tokenizer_source.removeprefix(MODEL)]

    def config_label(self, alone: str | None) -> str:
        """The model whose positions a merge is computed with; `alone` is the label of a model
        that is not merged with others, which keeps its own."""
        return self.config_labels.get(alone or "", self.config_label_of_merges)

    @cached_property
    def config_labels(self) -> dict[str, str]:
        """For each model the label of the first that attends over positions as it does, the
        merge's first."""
        order = dict.fromkeys([self.config_label_of_merges, *self.checkpoints])
        return {label: next(o for o in order if self._alike(o, label)) for label in order}

    @property
    def own_configs(self) -> dict[str, str]:
        """The models whose positions are not those of merges, with the label of their config."""
        merges = self.config_label_of_merges
        return {label: own for label, own in self.config_labels.items() if own != merges}

    @property
    def config_label_of_merges(self) -> str:
        """The model whose positions merges of several models are computed with."""
        return self.config_source or self.reference.label

    def _alike(self, one: str, other: str) -> bool:
        ours, theirs = (self.checkpoints[label].parsed for label in (one, other))
        return not differences(ours, theirs).keys() & POSITIONS

    def merged_config(self, dtype: str, label: str | None = None) -> dict[str, Any]:
        """The config.json of a merge: the reference's, with its own head untied where one is, and
        with the size and the special tokens of the merge's vocabulary.

        `label` is what `config_label` gives for the merge; None is a merge of several models.
        """
        config = without_foreign(self.reference.config)
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        config["architectures"] = [self.reference.architecture]
        source = label or self.config_label_of_merges
        if not self._alike(source, self.reference.label):
            config = with_positions(config, self.checkpoints[source].parsed)
        if any(info.weight.tied_names for info in self.layout):
            config["tie_word_embeddings"] = False
        if self.tokenizer_source != BASE:
            config["vocab_size"] = self.vocabulary.size
            theirs = self.tokenizer_checkpoint.config
            special = [key for key in {**config, **theirs} if key.endswith("_token_id")]
            config |= {key: theirs.get(key) for key in special}
        return without_stray_pad(config, self.vocabulary.size)

    def end_tokens(self, generation: bool = True) -> EndTokens:
        """The tokens that end an answer; those of config.json alone without `generation`."""
        tokenizer_checkpoint, config = self.tokenizer_checkpoint, self.merged_config("float32")
        return end_tokens(
            tokenizer_checkpoint.label,
            tokenizer_checkpoint.folder,
            config,
            self.vocabulary.size,
            generation,
        )

    def parsed_config(self, dtype: str, label: str | None = None) -> Any:
        """The same as transformers reads it."""
        path = self.reference.folder / CONFIG
        return parse(self.reference.label, path, self.merged_config(dtype, label))

    def check_model(self) -> None:
        """Refuse files that are not those of the model that their config.json describes."""
        label, path = self.reference.label, self.reference.folder / CONFIG
        model = empty_model(label, path, self.parsed_config("float32"))
        wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
        merged = {info.name: info.shape for info in self.layout}
        for name in [*wanted, *merged]:
            ours, theirs = merged.get(name), wanted.get(name)
            if ours != theirs:
                shapes = ["absent" if s is None else list(s) for s in (ours, theirs)]
                raise SourceError(
                    f"{label}: tensor {name} is {shapes[0]} in the model's files, and {shapes[1]} "
                    f"in the model that {path} describes"
                )


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]
