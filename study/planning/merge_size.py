"""Determine the size of a merge from the headers of a model's files, in milliseconds."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from objectives.errors import SourceError
from objectives.models.locate import parts_of
from study.config.genome import PathConfig

_BYTES = 2
"""The size of an element in an exported merge, bfloat16."""
_LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer in the name of a tensor."""
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""


def merged_bytes(reference: str, folder: Path, path: PathConfig | None = None) -> int | None:
    """Return the size in bytes of a merge with the shapes of this model, or of the longest path of
    a study of kind `layers`.

    Returns None if the model is not on this machine or cannot be read, which is reported when the
    models are opened.
    """
    try:
        model = _local(parts_of(reference, folder)[0], folder)
        elements: dict[str, int] = {}
        for file in model.glob("*.safetensors"):
            elements |= _elements(file)
        size = sum(elements.values())
        if path is not None and size:
            size += _more_elements(elements, path)
        return size * _BYTES or None
    except (OSError, SourceError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _local(reference: str, folder: Path) -> Path:
    local = folder / Path(reference).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    return Path(snapshot_download(name, revision=revision or None, local_files_only=True))


def _more_elements(elements: Mapping[str, int], path: PathConfig) -> int:
    """Return how many elements the longest path has beyond those of a model."""
    of_layers: dict[int, int] = {}
    for name, count in elements.items():
        if layer := _LAYER.search(name):
            of_layers[int(layer[1])] = of_layers.get(int(layer[1]), 0) + count
    more = path.positions(len(of_layers)) - len(of_layers)
    return more * max(of_layers.values(), default=0)


def _elements(path: Path) -> dict[str, int]:
    """Return the number of elements of each tensor in a safetensors file."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(path)
        header = json.loads(file.read(length))
    return {n: math.prod(t["shape"]) for n, t in header.items() if n != "__metadata__"}
