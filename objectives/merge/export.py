"""A merge as a Hugging Face folder, through the same stream that engines are fed from."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from objectives.atomic_files import sync
from objectives.errors import ExportError
from objectives.models.fingerprint import fingerprints
from objectives.models.sources import Sources
from objectives.models.tokenizer import FILES
from objectives.models.vocabulary import BASE, UNION

from .mergekit_yaml import to_mergekit
from .recipe import MergeRecipe
from .stream import MergeStream

SHARD_BYTES = 5_000_000_000
MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE = "mergekit_config.yml", "recipe.json", "SHA256SUMS"


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
    The folder appears whole or not at all. Raises ExportError.
    """
    out = out.resolve()
    if out.is_file():
        raise ExportError(f"{out} is a file; choose another name")
    if out.exists() and not overwrite and any(out.iterdir()):
        raise ExportError(f"{out} is there already; choose another folder or --overwrite")
    if out.exists() and any(out.iterdir()) and not (out / RECIPE_FILE).exists():
        raise ExportError(
            f"{out} is no exported merge and is not overwritten; choose another folder"
        )
    beside = out.with_name(f".{out.name}.part-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        _write_weights(recipe, sources, beside, shard_bytes)
        _write_sums(beside)
        _write_texts(recipe, sources, references, beside, card)
        for name, text in (texts or {}).items():
            (beside / name).write_text(text, encoding="utf-8")
        for path in beside.iterdir():
            sync(path)
        if out.exists():
            old = out.with_name(f".{out.name}.old-{os.getpid()}")
            out.rename(old)
            beside.rename(out)
            shutil.rmtree(old)
        else:
            beside.rename(out)
        sync(out.parent)
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        raise ExportError(f"cannot write {out}: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def identity(recipe: MergeRecipe, sources: Sources) -> dict[str, Any]:
    """What makes a merge: its numbers and its sources. Two folders with the same are the same."""
    data = {"recipe": recipe.to_dict(), "sources": fingerprints(sources)}
    return dict(json.loads(json.dumps(data)))


def holds(
    folder: Path, recipe: MergeRecipe, sources: Sources, texts: Mapping[str, str] | None = None
) -> bool:
    """Whether a folder is this merge with these texts, exported before."""
    try:
        stored = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        same = all((folder / n).read_text(encoding="utf-8") == t for n, t in (texts or {}).items())
    except (OSError, ValueError):
        return False
    return bool(same and stored == identity(recipe, sources))


def changed_weights(folder: Path) -> list[str]:
    """Weight files that are not what was exported, or gone. Raises ExportError where the folder
    does not say what was exported."""
    try:
        text = (folder / SUMS_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"{folder}: {SUMS_FILE}, which says what was exported, cannot be read: "
            f"{error.strerror}; export it again"
        ) from None
    named = [line.split("  ", 1) for line in text.splitlines()]
    return [name for digest, name in named if _sum(folder / name) != digest]


def sweep(folder: Path) -> None:
    """Drop what exports that were killed have left in a folder that nobody else exports into."""
    for left in [*folder.glob(".*.part-*"), *folder.glob(".*.old-*")]:
        shutil.rmtree(left, ignore_errors=True)


def _write_sums(folder: Path) -> None:
    """In the format of sha256sum, which checks it with --check."""
    paths = sorted(folder.glob("*.safetensors"))
    text = "".join(f"{_sum(path)}  {path.name}\n" for path in paths)
    (folder / SUMS_FILE).write_text(text, encoding="utf-8")


def _sum(path: Path) -> str | None:
    """SHA-256 of a file; None where it is not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_weights(recipe: MergeRecipe, sources: Sources, folder: Path, shard_bytes: int) -> None:
    itemsize = torch.empty(0, dtype=getattr(torch, recipe.dtype)).element_size()
    sizes = {info.name: math.prod(info.shape) * itemsize for info in sources.layout}
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
        _write_json(folder / "model.safetensors.index.json", index)


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
    config = sources.merged_config(recipe.dtype)
    _write_json(folder / "config.json", config)
    _write_json(folder / RECIPE_FILE, identity(recipe, sources))
    merge = to_mergekit(recipe, references, _tokenizer_source(recipe, sources, references))
    (folder / MERGEKIT_FILE).write_text(yaml.safe_dump(merge, sort_keys=False), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    speaker = sources.speaker.folder
    if sources.tokenizer_source == UNION:
        sources.vocabulary.tokenizer.save_pretrained(folder)
    else:
        for name in FILES:
            if (speaker / name).exists():
                shutil.copyfile(speaker / name, folder / name)
    generation = speaker / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, folder / generation.name)
    else:
        ids = {key: config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write_json(folder / generation.name, {k: v for k, v in ids.items() if v is not None})


def _tokenizer_source(
    recipe: MergeRecipe, sources: Sources, references: Mapping[str, str]
) -> str | None:
    """mergekit's key of this name. It takes no models of other vocabularies without it, and knows
    no base where a method has none."""
    if sources.tokenizer_source == UNION:
        return UNION
    if sources.tokenizer_source != BASE:
        return references[sources.speaker.label]
    if not sources.vocabularies_differ:
        return None
    return BASE if recipe.base else references[sources.reference.label]


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
