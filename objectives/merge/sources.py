"""Source checkpoints: folders of safetensors, read one tensor at a time through the page cache."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo, arch_info_for_config
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from .errors import SourceError
from .tokenizer import align, row_map

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the merge: its shape there, and the layer whose setting it takes."""

    name: str
    layer: int
    shape: tuple[int, ...]
    weight: WeightInfo


class Checkpoint:
    """One model folder. Files are memory-mapped; nothing is read before a tensor is asked for."""

    def __init__(self, label: str, folder: Path) -> None:
        self.label, self.folder = label, folder
        self.config = self._read_config()
        self._files = self._open()
        self._file_of = {name: f for f in self._files for name in f.keys()}  # noqa: SIM118

    def _read_config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SourceError(
                f"{self.label}: {self.folder} has no config.json; is it a model folder?"
            ) from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.label}: cannot read {path}: {error}") from None
        if not isinstance(config, dict):
            raise SourceError(f"{self.label}: {path} is not a mapping")
        return config

    def _open(self) -> list[Any]:
        paths = self.paths
        if not paths:
            raise SourceError(
                f"{self.label}: {self.folder} has no .safetensors files "
                "(other formats must be converted first)"
            )
        files = []
        for path in paths:
            try:
                files.append(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise SourceError(
                    f"{self.label}: {path} is not a whole safetensors file ({error}); "
                    "download it again"
                ) from None
        return files

    @property
    def paths(self) -> list[Path]:
        """Its safetensors files."""
        index = self.folder / _INDEX
        if not index.exists():
            return sorted(self.folder.glob("*.safetensors"))
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sorted(self.folder / name for name in names)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise SourceError(f"{self.label}: {index} is no index of safetensors files") from None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    @property
    def tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings", False))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        return str(self._file_of[name].get_slice(name).get_dtype())

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def stored_name(self, weight: WeightInfo) -> str | None:
        """What this checkpoint calls the weight; a tied head reads the embedding."""
        tied_names = list(weight.tied_names or ())
        own = [weight.name, *(weight.aliases or ())]
        wanted = [*tied_names, *own] if self.tied else [*own, *tied_names]
        return next((name for name in wanted if name in self._file_of), None)

    def has_own(self, weight: WeightInfo) -> bool:
        """Whether the weight is stored here and not tied to another."""
        own = {weight.name, *(weight.aliases or ())}
        return bool(own & self.names) and not (self.tied and weight.tied_names)


class Sources:
    """The checkpoints of a study, checked against each other.

    The reference (the base, or else the first model) gives the merge its architecture,
    vocabulary and tensor names.
    """

    def __init__(self, folders: Mapping[str, Path], reference: str) -> None:
        """Open every folder and compare headers; raises SourceError."""
        self.checkpoints = {label: Checkpoint(label, path) for label, path in folders.items()}
        self.reference = self.checkpoints[reference]
        self.num_layers, self.layout = self._read_layout()
        for checkpoint in self.checkpoints.values():
            self._compare(checkpoint)
        self._rows = {
            label: row_map(self.reference, c, *self._vocabulary_sizes(c))
            for label, c in self.checkpoints.items()
        }

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
            if checkpoint.dtype(name) not in _DTYPES:
                raise SourceError(
                    f"{checkpoint.label}: tensor {name} is stored as {checkpoint.dtype(name)}; "
                    f"known are {', '.join(_DTYPES)}"
                )
            shape = checkpoint.shape(name)
            if _without(shape, info.weight.vocabulary_axis) != _without(
                info.shape, info.weight.vocabulary_axis
            ):
                raise SourceError(
                    f"{checkpoint.label} and {reference.label} cannot be merged: "
                    f"tensor {info.name} is {list(shape)} and {list(info.shape)}"
                )

    def _vocabulary_sizes(self, checkpoint: Checkpoint) -> tuple[int, int]:
        """Rows of the reference and of this checkpoint."""
        for info in self.layout:
            axis, name = info.weight.vocabulary_axis, checkpoint.stored_name(info.weight)
            if axis is not None and name is not None:
                return info.shape[axis], checkpoint.shape(name)[axis]
        return 0, 0

    def check_values(self) -> None:
        """Read every tensor once and refuse what is not finite."""
        for checkpoint in self.checkpoints.values():
            for info in self.layout:
                name = checkpoint.stored_name(info.weight)
                assert name is not None
                if not torch.isfinite(checkpoint.read(name)).all():
                    raise SourceError(f"{checkpoint.label}: tensor {name} holds NaN or infinity")

    def read(self, label: str, info: TensorInfo) -> Tensor:
        """One tensor of one model as it is stored, its vocabulary in line with the reference's."""
        tensor = self._stored(self.checkpoints[label], info)
        rows, axis = self._rows[label], info.weight.vocabulary_axis
        if axis is None or rows is None:
            return tensor
        return align(tensor, self._stored(self.reference, info), rows, axis)

    def dtype(self, label: str, info: TensorInfo) -> torch.dtype:
        """What `read` gives, from the header alone."""
        checkpoint = self.checkpoints[label]
        name = checkpoint.stored_name(info.weight)
        assert name is not None
        return _DTYPES[checkpoint.dtype(name)]

    def _stored(self, checkpoint: Checkpoint, info: TensorInfo) -> Tensor:
        name = checkpoint.stored_name(info.weight)
        assert name is not None
        return checkpoint.read(name)

    def rows_of(self, label: str) -> list[int] | None:
        """For each row of the merge the model's row, -1 where it has none; None if all agree."""
        rows = self._rows[label]
        return None if rows is None else rows.tolist()

    @property
    def vocabularies_differ(self) -> bool:
        return any(rows is not None for rows in self._rows.values())

    def merged_config(self, dtype: str) -> dict[str, Any]:
        """The config.json of a merge: the reference's, with its own head untied where one is."""
        config = dict(self.reference.config)
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        if any(info.weight.tied_names for info in self.layout):
            config["tie_word_embeddings"] = False
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
