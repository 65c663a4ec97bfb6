"""A merge as a Hugging Face folder, through the same stream that engines are fed from."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from objectives.errors import ExportError
from objectives.files.export_files import json_of, sha256, text_of, write_json
from objectives.files.model_files import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    read_json,
)
from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stream import MergeStream
from objectives.models.checkpoint import Checkpoint
from objectives.models.fingerprint import fingerprints
from objectives.models.sources import Sources
from objectives.models.special_tokens import merged_generation_config
from objectives.models.vocabulary import BASE, UNION

from .manifest import MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE, read_sums, write_manifest
from .target import checked, replacing

SHARD_BYTES = 5_000_000_000


def export(
    recipe: MergeRecipe,
    sources: Sources,
    references: Mapping[str, str],
    out: Path,
    card: str,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write weights, config, tokenizer, recipe, mergekit YAML and model card; gives the folder.

    `references` says where each label's model comes from, `texts` holds further files by name.
    The folder appears whole or not at all. With `overwrite` it takes the place of an earlier
    export, never of other files. Raises ExportError.
    """
    sizes = _sizes(recipe, sources)
    out = checked(out, overwrite, sum(sizes.values()))
    try:
        with replacing(out) as folder:
            _write_weights(recipe, sources, folder, sizes, shard_bytes)
            _write_texts(recipe, sources, references, folder, card)
            for name, text in (texts or {}).items():
                (folder / name).write_text(text, encoding="utf-8")
            write_manifest(folder)
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        raise ExportError(f"cannot write {out}: {error}") from None
    return out


def identity(recipe: MergeRecipe, sources: Sources) -> dict[str, Any]:
    """What makes a merge: its numbers and its sources. Two folders with the same are the same."""
    data: dict[str, Any] = {"recipe": recipe.to_dict(), "sources": fingerprints(sources)}
    if sources.config_source is not None:
        data["config_source"] = sources.config_label(recipe.alone)
    return dict(json.loads(json.dumps(data)))


def holds(
    folder: Path, recipe: MergeRecipe, sources: Sources, texts: Mapping[str, str] | None = None
) -> bool:
    """Whether a folder is this merge with these texts, exported before."""
    try:
        stored = json_of(folder / RECIPE_FILE)
        same = all(text_of(folder / name) == text for name, text in (texts or {}).items())
        whole = all((folder / name).is_file() for name in read_sums(folder))
    except ExportError:
        return False
    return same and whole and bool(stored == identity(recipe, sources))


def changed_weights(folder: Path) -> list[str]:
    """Weight files that are not what was exported, or gone. Raises ExportError where the folder
    does not say what was exported."""
    try:
        sums = read_sums(folder)
    except ExportError as error:
        raise ExportError(
            f"{error}; {SUMS_FILE} says what was exported: export the merge again"
        ) from None
    unlisted = [path.name for path in folder.glob("*.safetensors") if path.name not in sums]
    try:
        changed = [name for name, digest in sums.items() if sha256(folder / name) != digest]
    except OSError as error:
        raise ExportError(f"{folder}: a weight file cannot be read: {error}") from None
    return changed + unlisted


def _sizes(recipe: MergeRecipe, sources: Sources) -> dict[str, int]:
    """Bytes of each tensor."""
    itemsize = torch.empty(0, dtype=getattr(torch, recipe.dtype)).element_size()
    return {info.name: math.prod(info.shape) * itemsize for info in sources.layout}


def _write_weights(
    recipe: MergeRecipe,
    sources: Sources,
    folder: Path,
    sizes: Mapping[str, int],
    shard_bytes: int,
) -> None:
    shards = _planned(sizes, shard_bytes)
    tensors = MergeStream(sources).tensors(recipe)
    for file, names in shards.items():
        save_file(_take(tensors, names), folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors makes files that only their owner reads
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: file for file, names in shards.items() for name in names},
        }
        write_json(folder / "model.safetensors.index.json", index)


def _planned(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """File names and the tensors that go into each, in the order of the stream."""
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
    taken = {}
    for expected in names:
        name, tensor = next(tensors)
        assert name == expected
        taken[name] = tensor.contiguous()
    return taken


def _write_texts(
    recipe: MergeRecipe,
    sources: Sources,
    references: Mapping[str, str],
    folder: Path,
    card: str,
) -> None:
    config = sources.merged_config(recipe.dtype, sources.config_label(recipe.alone))
    write_json(folder / "config.json", config)
    write_json(folder / RECIPE_FILE, identity(recipe, sources))
    merge = to_mergekit(recipe, references, _tokenizer_source(recipe, sources, references))
    (folder / MERGEKIT_FILE).write_text(yaml.safe_dump(merge, sort_keys=False), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    tokenizer_checkpoint = sources.tokenizer_checkpoint.folder
    if sources.tokenizer_source == UNION:
        _save_tokenizer(sources.vocabulary.tokenizer, folder)
    else:
        _copy_tokenizer(sources.tokenizer_checkpoint, folder)
    label, rows = sources.tokenizer_checkpoint.label, sources.vocabulary.size
    generation = merged_generation_config(label, tokenizer_checkpoint, config, rows)
    write_json(folder / GENERATION_CONFIG, generation)


def _copy_tokenizer(tokenizer_checkpoint: Checkpoint, folder: Path) -> None:
    """Without a tokenizer's auto_map, which names code."""
    for name in TOKENIZER_FILES:
        path = tokenizer_checkpoint.folder / name
        if not path.exists():
            continue
        if name == TOKENIZER_CONFIG and "auto_map" in (
            settings := read_json(tokenizer_checkpoint.label, path)
        ):
            kept = {key: value for key, value in settings.items() if key != "auto_map"}
            write_json(folder / name, kept)
        else:
            shutil.copyfile(path, folder / name)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # of a full disk it raises a bare Exception
        raise ExportError(f"cannot write the tokenizer to {folder}: {error}") from None


def _tokenizer_source(
    recipe: MergeRecipe, sources: Sources, references: Mapping[str, str]
) -> str | None:
    """mergekit's key of this name. It takes no models of other vocabularies without it, and knows
    no base where a method has none."""
    if sources.tokenizer_source == UNION:
        return UNION
    if sources.tokenizer_source != BASE:
        return references[sources.tokenizer_checkpoint.label]
    if not sources.vocabularies_differ:
        return None
    return BASE if recipe.base else references[sources.reference.label]
