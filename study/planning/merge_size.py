"""Determine the size of a merge from the headers of a model's files, in milliseconds."""

import json
import math
from pathlib import Path

from objectives.errors import SourceError
from objectives.models.locate import parts_of

_BYTES = 2
"""The size of an element in an exported merge, bfloat16."""
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""


def merged_bytes(reference: str, folder: Path) -> int | None:
    """Return the size in bytes of a merge with the shapes of this model.

    Returns None if the model is not on this machine or cannot be read, which is reported when the
    models are opened.
    """
    try:
        model = _local(parts_of(reference, folder)[0], folder)
        return sum(_elements(path) for path in model.glob("*.safetensors")) * _BYTES or None
    except (OSError, SourceError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _local(reference: str, folder: Path) -> Path:
    local = folder / Path(reference).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    return Path(snapshot_download(name, revision=revision or None, local_files_only=True))


def _elements(path: Path) -> int:
    """Return the number of elements in a safetensors file."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(path)
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
