"""The checkpoints of a study, checked against each other and read in line with the merge."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo, arch_info_for_config
from torch import Tensor
from transformers import AutoConfig

from objectives.errors import SourceError

from .checkpoint import DTYPES, Checkpoint
from .vocabulary import BASE, MODEL, Vocabulary, vocabulary


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the merge: its shape there, and the layer whose setting it takes."""

    name: str
    layer: int
    shape: tuple[int, ...]
    weight: WeightInfo


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
    ) -> None:
        """Open every folder and compare headers; raises SourceError.

        `tokenizer_source` is base, union or model:LABEL, as in vocabulary.py; with `has_base` the
        reference is the base of the merge.
        """
        own = tokenizer_source == MODEL + reference
        self.tokenizer_source, self.has_base = BASE if own else tokenizer_source, has_base
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

    def _read_layout(self) -> tuple[int, tuple[TensorInfo, ...]]:
        config = self._transformers_config()
        info = arch_info_for_config(config) if config.architectures else None
        if info is None or len(info.modules) != 1:
            raise SourceError(
                f"{self.reference.label}: architecture {config.architectures} "
                "is not one that mergekit can merge"
            )
        [module] = info.modules.values()
        architecture, prefix = module.architecture, module.weight_prefix or ""
        num_layers = int(architecture.num_layers(config))
        weights = [(-1, w) for w in architecture.pre_weights(config)]
        for layer in range(num_layers):
            weights += [(layer, w) for w in architecture.layer_weights(layer, config) or ()]
        weights += [(num_layers, w) for w in architecture.post_weights(config)]
        layout = []
        for layer, bare in weights:
            weight = _with_prefix(bare, prefix)
            if weight.optional and not any(c.has_own(weight) for c in self.checkpoints.values()):
                continue
            stored = self.reference.stored_name(weight)
            if stored is None:
                raise SourceError(f"{self.reference.label}: tensor {weight.name} is missing")
            shape = self.reference.shape(stored)
            layout.append(TensorInfo(weight.name, layer, shape, weight))
        return num_layers, tuple(layout)

    def _transformers_config(self) -> Any:
        try:
            return AutoConfig.from_pretrained(self.reference.folder)
        except Exception as error:  # transformers raises whatever a field's check raises
            reason = " ".join(str(error).split())[:200]
            path = self.reference.folder / "config.json"
            raise SourceError(f"{self.reference.label}: cannot use {path}: {reason}") from None

    def _compare(self, checkpoint: Checkpoint) -> None:
        reference = self.reference
        for field in ("architectures", "num_hidden_layers"):
            ours, theirs = checkpoint.config.get(field), reference.config.get(field)
            if ours != theirs:
                raise SourceError(
                    f"{checkpoint.label} and {reference.label} cannot be merged: "
                    f"{field} {ours} and {theirs}"
                )
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
                    f"{checkpoint.label} and {reference.label} cannot be merged: "
                    f"tensor {info.name} is {list(shape)} and {list(info.shape)}"
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
        filled: Tensor = torch.zeros(())
        counts = torch.zeros(len(places))
        for label, gives in self.vocabulary.givers.items():
            chosen = gives[places]
            if not chosen.any():
                continue
            rows = self.vocabulary.rows[label]
            wanted = places[chosen] if rows is None else rows[places[chosen]]
            found = self._stored(label, info).movedim(axis, 0).index_select(0, wanted)
            if not filled.ndim:
                filled = torch.zeros(len(places), *found.shape[1:])
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
    def speaker(self) -> Checkpoint:
        """The model whose numbers the merge's tokens begin with: its special tokens are the
        merge's."""
        if not self.tokenizer_source.startswith(MODEL):
            return self.reference
        return self.checkpoints[self.tokenizer_source.removeprefix(MODEL)]

    def merged_config(self, dtype: str) -> dict[str, Any]:
        """The config.json of a merge: the reference's, with its own head untied where one is, and
        with the size and the special tokens of the merge's vocabulary."""
        config = dict(self.reference.config)
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        if any(info.weight.tied_names for info in self.layout):
            config["tie_word_embeddings"] = False
        if self.tokenizer_source != BASE:
            config["vocab_size"] = self.vocabulary.size
            theirs = self.speaker.config
            special = [key for key in {**config, **theirs} if key.endswith("_token_id")]
            config |= {key: theirs.get(key) for key in special}
        return config


def _with_prefix(weight: WeightInfo, prefix: str) -> WeightInfo:
    if not prefix:
        return weight
    return weight.model_copy(
        update={
            "name": prefix + weight.name,
            "aliases": tuple(prefix + a for a in weight.aliases or ()) or None,
            "tied_names": tuple(prefix + t for t in weight.tied_names or ()) or None,
        }
    )


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]
