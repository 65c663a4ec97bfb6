"""How large a merge becomes, from the headers of a model's files alone, in milliseconds."""

import json
import math
from pathlib import Path

from objectives.errors import SourceError

from .locate import parts_of

_BYTES = 2
"""Of a number in an exported merge: bfloat16."""
_LONGEST = 100_000_000
"""Bytes of a header, as in the safetensors library."""


def merged_bytes(reference: str, folder: Path) -> int | None:
    """Bytes of a merge with the shapes of this model; None if the model is not on this machine, or
    has no files that can be read: that is said when the models are opened."""
    try:
        model = _local(parts_of(reference, folder)[0], folder)
        return sum(_numbers(path) for path in model.glob("*.safetensors")) * _BYTES or None
    except (OSError, SourceError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _local(reference: str, folder: Path) -> Path:
    local = folder / Path(reference).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    return Path(snapshot_download(name, revision=revision or None, local_files_only=True))


def _numbers(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST:
            raise ValueError(path)
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
