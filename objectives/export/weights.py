"""Write the weights of a merge as safetensors files.

They are computed as they are for engines, on a GPU if it has a kernel for the method.
"""

import importlib.util
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from objectives.files.export_files import write_json
from objectives.merge.catalogue import METHODS
from objectives.merge.path import merged_path, path_tensors
from objectives.merge.recipe import MergeRecipe, PathRecipe, Recipe
from objectives.merge.stores import Files, Streamed
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources

log = logging.getLogger(__name__)

SHARD_BYTES = 5_000_000_000
"""The maximum size of a weight file, unless a single tensor is larger."""


def tensor_sizes(recipe: Recipe, sources: Sources) -> dict[str, int]:
    """Return the size in bytes of each merged tensor, by name."""
    itemsize = torch.empty(0, dtype=getattr(torch, recipe.dtype)).element_size()
    shapes = (
        {tensor.name: tensor.source.shape for tensor in path_tensors(recipe, sources)}
        if isinstance(recipe, PathRecipe)
        else {info.name: info.shape for info in sources.layout}
    )
    return {name: math.prod(shape) * itemsize for name, shape in shapes.items()}


def write_weights(
    recipe: Recipe,
    sources: Sources,
    folder: Path,
    sizes: Mapping[str, int],
    shard_bytes: int,
) -> None:
    """Write the weights in files of at most `shard_bytes`, and their index if there are several.

    `sizes` are those of `tensor_sizes`. Raises MergeError, OSError and SafetensorError.
    """
    shards = _plan_shards(sizes, shard_bytes)
    log.info("writing the merge, %s MB", f"{sum(sizes.values()) / 1e6:,.1f}")
    if isinstance(recipe, PathRecipe):
        _write_shards(merged_path(recipe, sources, Files(sources)), folder, shards)
    elif not (_can_use_gpu(recipe) and _write_from_gpu(recipe, sources, folder, shards)):
        _write_shards(MergeStream(sources).tensors(recipe), folder, shards)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: file for file, names in shards.items() for name in names},
        }
        write_json(folder / "model.safetensors.index.json", index)


def _can_use_gpu(recipe: MergeRecipe) -> bool:
    """Return whether this machine's GPU has a kernel for the recipe's method.

    The kernels are much faster than a CPU, and their results are bit-identical.
    """
    has_kernel = METHODS[recipe.method].has_kernel and importlib.util.find_spec("triton")
    return bool(has_kernel) and torch.cuda.is_available()


def _write_from_gpu(
    recipe: MergeRecipe, sources: Sources, folder: Path, shards: Mapping[str, list[str]]
) -> bool:
    """Merge on the GPU and write the shards; return False if GPU memory runs out."""
    try:
        stream = MergeStream(sources, Streamed(sources, torch.device("cuda"), pinned=False))
        try:
            _write_shards(stream.tensors(recipe), folder, shards)
        finally:
            stream.close()
    except torch.OutOfMemoryError:
        log.warning("not enough free GPU memory for the merge; merging on the CPU instead")
        return False
    return True


def _write_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, shards: Mapping[str, list[str]]
) -> None:
    for file, names in shards.items():
        save_file(_take(tensors, names), folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors writes files with mode 0600


def _plan_shards(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """Return the names of the tensors in each weight file, by file name, in the merge's order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{i:05}-of-{len(shards):05}.safetensors": names for i, names in enumerate(shards, 1)
    }


def _take(tensors: Iterator[tuple[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    """Return the next tensors by name; `names` must be their names, in the same order."""
    shard: dict[str, Tensor] = {}
    written: set[int] = set()
    for expected in names:
        name, tensor = next(tensors)
        assert name == expected
        tensor = tensor.cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        # a layer that a path repeats is one tensor in memory, which safetensors does not accept
        shard[name] = tensor.clone() if memory in written else tensor
        written.add(memory)
    return shard
