"""A checkpoint: a model folder with safetensors files, whose tensors are read one at a time."""

import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from safetensors import SafetensorError, safe_open
from torch import Tensor

from objectives.errors import SourceError
from objectives.files.model_files import CONFIG, check_file, check_texts, read_json, weight_files

from .layout import architecture
from .model_config import parse
from .text_part import text_config, text_name

log = logging.getLogger(__name__)

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_ADAPTER = "it is an adapter: write model+adapter, with the model that it was trained on"
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|weight_packed|weight_scale|weight_scale_inv|weight_scale_2|absmax"
    r"|quant_map|SCB|weight_format)(\.|$)|_(blocks|scales|scale_inv)$"
)
"""Names of tensors of quantized models: GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes."""


class Checkpoint:
    """One model folder. Files are memory-mapped, so tensors are read only when they are used.

    For a multimodal model, `config` and the tensors are those of its text part.
    """

    def __init__(self, label: str, folder: Path) -> None:
        """Open and check the folder. Raises SourceError."""
        self.label, self.folder = label, folder
        self.config = self._read_config()
        self._quantization = self.config.get("quantization_config")
        whole = parse(label, folder / CONFIG, self.config)
        text = text_config(label, folder / CONFIG, whole)
        self.parsed = whole
        """The config as transformers reads it."""
        if text is not None:
            log.info("%s: only the text part of %s is merged", label, whole.model_type)
            self.config, self.parsed = text, parse(label, folder / CONFIG, text)
        names = self.config.get("architectures")
        self.architecture = architecture(label, folder / CONFIG, names, self.parsed)
        self.paths = weight_files(label, folder)
        """The safetensors files."""
        self._files = self._open()
        self._stored: dict[str, tuple[Any, str]] = {}
        """The file of each tensor, and the tensor's name in it."""
        self._collect(text is not None)
        self._check_not_quantized()

    def _read_config(self) -> dict[str, Any]:
        path = self.folder / CONFIG
        if not path.exists() and not path.is_symlink():
            raise SourceError(
                f"{self.label}: {self.folder} has no config.json; "
                + (_ADAPTER if self._is_adapter else "choose the folder of a model")
            )
        check_file(self.label, self.folder, path)
        check_texts(self.label, self.folder)
        return read_json(self.label, path)

    def _open(self) -> list[Any]:
        if not self.paths:
            raise SourceError(
                f"{self.label}: {self.folder} has no .safetensors files{self._alternative}"
            )
        files = []
        for path in self.paths:
            try:
                files.append(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise SourceError(
                    f"{self.label}: {path} is not a complete safetensors file ({error}); "
                    "download it again"
                ) from None
        return files

    def _collect(self, is_part: bool) -> None:
        """Find the file of each tensor. Raises SourceError if a tensor is in two files."""
        paths: dict[str, Path] = {}
        for path, file in zip(self.paths, self._files, strict=True):
            for stored in file.keys():  # noqa: SIM118
                name = text_name(stored) if is_part else stored
                if name in paths:
                    raise SourceError(
                        f"{self.label}: tensor {name} is in both {paths[name].name} and "
                        f"{path.name} of {self.folder}; remove the wrong file from the folder"
                    )
                paths[name] = path
                self._stored[name] = (file, stored)

    def _check_not_quantized(self) -> None:
        """Check that the weights are not quantized. Raises SourceError."""
        settings = self._quantization
        quantized = next((name for name in self.names if _QUANTIZED.search(name)), None)
        if quantized is None:
            quantized = next(
                (n for n in self.names if self.dtype(n).startswith(("F8", "F4"))), None
            )
        if quantized is None:
            if settings:
                log.warning(
                    "%s: its weights are not quantized; the quantization_config in config.json is "
                    "ignored",
                    self.label,
                )
            return
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        raise SourceError(
            f"{self.label}: its weights are quantized ({method or 'unknown method'}; tensor "
            f"{quantized}) and cannot be merged; use the original model, or a copy in bfloat16"
        )

    @property
    def _alternative(self) -> str:
        """What the folder contains instead of safetensors files, and the remedy."""
        if self._is_adapter:
            return f"; {_ADAPTER}"
        if any(self.folder.glob("*.bin")):
            return (
                ", but .bin files, which can run code when they are loaded: if you trust them, "
                "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER, "
                'dtype="auto").save_pretrained(OTHER), and the same for its tokenizer'
            )
        if any(self.folder.glob("*.gguf")):
            return ", but a .gguf file, which is quantized for inference; use the original model"
        return ""

    @property
    def _is_adapter(self) -> bool:
        return (self.folder / "adapter_config.json").exists()

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._stored)

    @cached_property
    def _embedding(self) -> str | None:
        return next(
            (n for n in self.names if n.endswith(("embed_tokens.weight", "wte.weight"))), None
        )

    @cached_property
    def tied(self) -> bool:
        """Whether the output head shares its weights with the embedding.

        As in transformers, a stored head that differs is not tied, whatever the config says.
        """
        if not getattr(self.parsed, "tie_word_embeddings", False):
            return False
        head, embedding = "lm_head.weight", self._embedding
        if head not in self.names or embedding is None:
            return True
        return torch.equal(self.read(head), self.read(embedding))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor from the file's header."""
        file, stored = self._stored[name]
        return tuple(file.get_slice(stored).get_shape())

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor from the file's header; a key of DTYPES if supported."""
        file, stored = self._stored[name]
        return str(file.get_slice(stored).get_dtype())

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        file, stored = self._stored[name]
        tensor: Tensor = file.get_tensor(stored)
        return tensor

    def stored_name(self, weight: WeightInfo) -> str | None:
        """Return the name of a weight in this checkpoint; a tied head has the embedding's name.

        Returns None if the checkpoint lacks the weight.
        """
        tied_names = list(weight.tied_names or ())
        own = [weight.name, *(weight.aliases or ())]
        names = [*tied_names, *own] if tied_names and self.tied else [*own, *tied_names]
        return next((name for name in names if name in self._stored), None)

    def has_own(self, weight: WeightInfo) -> bool:
        """Return whether the weight is stored in this checkpoint and not tied to another."""
        own = {weight.name, *(weight.aliases or ())}
        return bool(own & self.names) and not (weight.tied_names and self.tied)
