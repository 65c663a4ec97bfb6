"""A checkpoint: one folder of safetensors, read one tensor at a time through the page cache."""

import json
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from safetensors import SafetensorError, safe_open
from torch import Tensor

from objectives.errors import SourceError

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_ADAPTER = "it is an adapter: write model+adapter, with the model it was trained on"
_INDEX = "model.safetensors.index.json"


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
                f"{self.label}: {self.folder} has no config.json; "
                + (_ADAPTER if self._is_adapter else "is it a model folder?")
            ) from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.label}: cannot read {path}: {error}") from None
        if not isinstance(config, dict):
            raise SourceError(f"{self.label}: {path} is not a mapping")
        return config

    def _open(self) -> list[Any]:
        paths = self.paths
        if not paths:
            raise SourceError(f"{self.label}: {self.folder} has no .safetensors files{self._other}")
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
    def _other(self) -> str:
        """What the folder has instead, and what to do with it."""
        if self._is_adapter:
            return f"; {_ADAPTER}"
        if any(self.folder.glob("*.bin")):
            return (
                ", but .bin files, which can run code when they are read: if you trust them, "
                "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER, "
                'dtype="auto").save_pretrained(OTHER), and the same for its tokenizer'
            )
        if any(self.folder.glob("*.gguf")):
            return ", but a .gguf: that is quantized for inference; use the model it was made from"
        return ""

    @property
    def _is_adapter(self) -> bool:
        return (self.folder / "adapter_config.json").exists()

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
