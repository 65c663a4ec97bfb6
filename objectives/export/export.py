"""Write a merge as a Hugging Face folder. The weights are computed as they are for engines."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from objectives.errors import ExportError, MergeError
from objectives.files.export_files import json_of, sha256, text_of, write_json
from objectives.files.model_files import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    read_json,
)
from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.path import (
    check_path,
    mergekit_can_make,
    path_config,
    to_passthrough,
)
from objectives.merge.recipe import MergeRecipe, PathRecipe, Recipe
from objectives.models.checkpoint import Checkpoint
from objectives.models.fingerprint import fingerprints
from objectives.models.sources import Sources
from objectives.models.special_tokens import merged_generation_config
from objectives.models.vocabulary import BASE, UNION

from .manifest import MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE, read_sums, write_manifest
from .target import replace_atomically, resolve_target
from .weights import SHARD_BYTES, tensor_sizes, write_weights

log = logging.getLogger(__name__)


def export(
    recipe: Recipe,
    sources: Sources,
    references: Mapping[str, str],
    out: Path,
    card: str,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a model folder with the merge, and return its path.

    The folder contains the weights, config.json, generation_config.json, the tokenizer, the model
    card `card` as README.md, recipe.json, SHA256SUMS and manifest.json. It also contains
    mergekit_config.yml, unless the recipe is a path through models whose vocabularies differ.
    `texts` maps the names of additional files to their text. `references` maps each source's label
    to its folder or hub id.

    The folder is written atomically. With `overwrite` it replaces an earlier export, but not if
    that folder contains changed files or files that no export wrote. Raises ExportError and
    SourceError.
    """
    if isinstance(recipe, PathRecipe):
        check_path(recipe, sources)
    sizes = tensor_sizes(recipe, sources)
    out = resolve_target(out, overwrite, sum(sizes.values()))
    try:
        with replace_atomically(out, overwrite) as folder:
            write_weights(recipe, sources, folder, sizes, shard_bytes)
            _write_texts(recipe, sources, references, folder, card)
            for name, text in (texts or {}).items():
                (folder / name).write_text(text, encoding="utf-8")
            write_manifest(folder)
    except MergeError as error:
        raise ExportError(f"cannot compute the merge: {error}") from None
    except (OSError, SafetensorError) as error:  # a full disk raises either of them
        raise ExportError(f"cannot write {out}: {error}") from None
    return out


def recipe_json(recipe: Recipe, sources: Sources) -> dict[str, Any]:
    """Return the contents of recipe.json: the recipe and the sources' fingerprints.

    If the study sets `config_source`, the label of the model whose position settings the merge uses
    is added. Merges with equal contents have equal weights, up to rounding, unless their sources
    differ in bytes that the fingerprints do not cover.
    """
    data: dict[str, Any] = {"recipe": recipe.to_dict(), "sources": fingerprints(sources)}
    if sources.config_source is not None:
        data["config_source"] = sources.config_label(recipe.copied_model)
    return dict(json.loads(json.dumps(data)))


def is_export_of(
    folder: Path, recipe: Recipe, sources: Sources, texts: Mapping[str, str] | None = None
) -> bool:
    """Return whether a folder is a complete export of this merge with these additional files.

    Digests are not compared: `changed_weights` does that.
    """
    try:
        stored = json_of(folder / RECIPE_FILE)
        same = all(text_of(folder / name) == text for name, text in (texts or {}).items())
        complete = all((folder / name).is_file() for name in read_sums(folder))
    except ExportError:
        return False
    return same and complete and bool(stored == recipe_json(recipe, sources))


def changed_weights(folder: Path) -> list[str]:
    """Return the names of the weight files that were changed, removed or added since the export.

    Raises ExportError if SHA256SUMS is missing or invalid, or if a file in it is not a regular
    file.
    """
    try:
        sums = read_sums(folder)
    except ExportError as error:
        raise ExportError(f"{error}; export the merge again to write a new {SUMS_FILE}") from None
    unlisted = [path.name for path in folder.glob("*.safetensors") if path.name not in sums]
    changed = [name for name, digest in sums.items() if sha256(folder / name) != digest]
    return changed + unlisted


def _write_texts(
    recipe: Recipe,
    sources: Sources,
    references: Mapping[str, str],
    folder: Path,
    card: str,
) -> None:
    merge: dict[str, Any] | None
    if isinstance(recipe, PathRecipe):
        config = path_config(recipe, sources)
        possible = mergekit_can_make(recipe, sources)
        merge = to_passthrough(recipe, references) if possible else None
    else:
        config = sources.merged_config(recipe.dtype, sources.config_label(recipe.copied_model))
        merge = to_mergekit(recipe, references, _tokenizer_source(recipe, sources, references))
    write_json(folder / "config.json", config)
    write_json(folder / RECIPE_FILE, recipe_json(recipe, sources))
    if merge is not None:
        text = yaml.safe_dump(merge, sort_keys=False)
        (folder / MERGEKIT_FILE).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    checkpoint = sources.tokenizer_checkpoint
    if sources.tokenizer_source == UNION:
        _save_tokenizer(sources.vocabulary.tokenizer, folder)
    else:
        _copy_tokenizer(checkpoint, folder)
    rows = sources.vocabulary.size
    generation = merged_generation_config(checkpoint.label, checkpoint.folder, config, rows)
    write_json(folder / GENERATION_CONFIG, generation)


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the tokenizer's files, but not the key `auto_map`, which refers to Python code."""
    for name in TOKENIZER_FILES:
        path = checkpoint.folder / name
        if not path.exists():
            continue
        if name == TOKENIZER_CONFIG and "auto_map" in (
            settings := read_json(checkpoint.label, path)
        ):
            without = {key: value for key, value in settings.items() if key != "auto_map"}
            write_json(folder / name, without)
        else:
            shutil.copyfile(path, folder / name)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
        path = folder / TOKENIZER_CONFIG
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.pop("auto_map", None) is not None:
            write_json(path, settings)
    except Exception as error:  # tokenizers raises a plain Exception if the disk is full
        raise ExportError(f"cannot write the tokenizer to {folder}: {error}") from None


def _tokenizer_source(
    recipe: MergeRecipe, sources: Sources, references: Mapping[str, str]
) -> str | None:
    """Return the value of mergekit's key `tokenizer_source`; None to leave it out.

    mergekit needs it for models with different vocabularies, and refuses `base` for a method
    without a base model.
    """
    if sources.tokenizer_source == UNION:
        return UNION
    if sources.tokenizer_source != BASE:
        return references[sources.tokenizer_checkpoint.label]
    if not sources.vocabularies_differ:
        return None
    return BASE if recipe.base else references[sources.reference.label]
