"""Merge adapters (LoRA and others that peft supports) into their base, once, in a cache.

A folder of the cache is named after the contents of the base and the adapter. One process creates
it atomically while others wait.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from objectives.errors import SourceError
from objectives.files.atomic_files import written_beside
from objectives.files.model_files import (
    GENERATION_CONFIG,
    INDEX,
    SINGLE,
    TOKENIZER_FILES,
    check_file,
    read_json,
)
from objectives.files.samples import windows

from .checkpoint import Checkpoint

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_SCHEME = "2"
"""Incremented whenever the merged folder of the same base and adapter changes."""
_EMBEDDINGS = ("embed_tokens", "lm_head")
_KINDS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "VERA", "FOURIERFT")
"""peft's kinds of adapters that are merged from their weights alone. Others load further models or
files that their config names, or cannot be merged."""
_INITIALIZATIONS = ("corda_config", "eva_config", "lora_ga_config", "megatron_config")
"""Keys whose settings make peft read files or import modules that the config names."""
_NAMES = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping")
"""Keys that name something for information only."""
_WINDOWS = 64
_MAX_LENGTH = 80
"""Characters of a value that a message quotes."""


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/merge-study/adapters; the default of the variable is ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "merge-study" / "adapters"


def with_adapter(base: Path, adapter: Path) -> Path:
    """Return the folder of the base with the adapter merged into it. Raises SourceError."""
    _check(base, adapter)
    name = f"{base.name}+{adapter.name}-{_digest(base, adapter)}"
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{name}.lock"):
            if not (cache / name).is_dir():
                _create(base, adapter, cache / name)
    except OSError as error:
        raise SourceError(
            f"{adapter}: cannot write the merged model to {cache}: {error}; "
            "set XDG_CACHE_HOME to another folder"
        ) from None
    return cache / name


def _create(base: Path, adapter: Path, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process: we hold the lock
    log.info("merging the adapter %s into %s; cached in %s", adapter.name, base.name, folder)
    with written_beside(part, folder):
        _merge(base, adapter, part)


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    """Merge with peft, in the dtype of the base's config, and write model and tokenizer.

    The tokenizer is the base's, unless the adapter adds tokens and has one. Raises SourceError.
    """
    import peft
    from transformers import AutoModelForCausalLM, GenerationConfig

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", trust_remote_code=False, local_files_only=True
        )
        shapes = _shapes(adapter / _WEIGHTS)
        has_new_rows = _add_rows(model, adapter, shapes)
        adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=False)
        loaded = set(peft.get_peft_model_state_dict(adapted))
        unmatched = {n for n in loaded ^ shapes.keys() if not _is_whole_embedding(n)}
        if unmatched:  # peft only warns
            raise ValueError(
                f"{len(unmatched)} tensors are only in the adapter or only in the adapted model, "
                f"for example {min(unmatched)}"
            )
        merged = adapted.merge_and_unload()
        merged.generation_config = GenerationConfig()  # transformers refuses to save invalid ones
        merged.save_pretrained(folder)
    except (OSError, SourceError):
        raise
    except Exception as error:  # files may cause any error in peft and transformers
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"{adapter}: the adapter does not fit {base}: {reason}") from None
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    has_tokenizer = any((adapter / name).exists() for name in TOKENIZER_FILES)
    with_tokenizer = adapter if has_new_rows and has_tokenizer else base
    for source, names in ((with_tokenizer, TOKENIZER_FILES), (base, (GENERATION_CONFIG,))):
        for name in names:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)


def _add_rows(model: Any, adapter: Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Add the embedding rows of the adapter's new tokens; return whether there are any.

    Tied embedding and head become two tensors if the adapter changes one of them by a LoRA.
    Raises SourceError if the adapter lacks rows of its new tokens.
    """
    own = int(model.get_input_embeddings().weight.shape[0])
    whole = {n: shape[0] for n, shape in shapes.items() if _is_whole_embedding(n)}
    trained = max(_trained_tokens(adapter), default=-1) + 1
    rows = max([own, trained, *whole.values()])
    if rows > own:
        missing = [part for part in _parts(model) if not _has_rows(whole, part, rows)]
        if missing:
            raise SourceError(
                f"{adapter}: the adapter trains tokens up to id {rows - 1}, its base has {own} "
                f"rows, and {_WEIGHTS} has no {missing[0]} of {rows} rows; save the adapter with "
                "save_embedding_layers=True, or merge it with peft's merge_and_unload after "
                "training and use the merged folder"
            )
        model.resize_token_embeddings(rows, mean_resizing=False)
    if model.config.tie_word_embeddings and any(
        "lora_" in name and part in name.split(".") for name in shapes for part in _EMBEDDINGS
    ):
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        head.weight = type(embedding.weight)(embedding.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return rows > own


def _parts(model: Any) -> tuple[str, ...]:
    return _EMBEDDINGS[:1] if model.config.tie_word_embeddings else _EMBEDDINGS


def _has_rows(whole: Mapping[str, int], part: str, rows: int) -> bool:
    return any(part in name.split(".") and count == rows for name, count in whole.items())


def _is_whole_embedding(name: str) -> bool:
    """Return whether a tensor of an adapter is a whole embedding or a whole head."""
    parts = name.split(".")
    return (
        parts[-1] == "weight"
        and not any(part.startswith("lora_") for part in parts)
        and any(part in parts for part in _EMBEDDINGS)
    )


def _trained_tokens(adapter: Path) -> list[int]:
    """Return the ids of the tokens that the adapter trains by row (trainable tokens)."""
    settings = read_json(adapter.name, adapter / ADAPTER_CONFIG)
    indices = settings.get("trainable_token_indices")
    lists = indices.values() if isinstance(indices, dict) else [indices or []]
    return [token for tokens in lists for token in tokens]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118


def _check(base: Path, adapter: Path) -> None:
    """Check both folders before anything is loaded. Raises SourceError."""
    path = adapter / ADAPTER_CONFIG
    if not path.is_file():
        raise SourceError(f"{adapter} has no {ADAPTER_CONFIG}; choose the folder of an adapter")
    if not (adapter / _WEIGHTS).is_file():
        raise SourceError(
            f"{adapter} has no {_WEIGHTS}; save it again with a peft version that writes it"
        )
    if not any(base.glob("*.safetensors")):
        raise SourceError(f"{base} has no .safetensors files to merge an adapter into")
    for name in (ADAPTER_CONFIG, _WEIGHTS):
        check_file(adapter.name, adapter, adapter / name)
    config = read_json(adapter.name, path)
    _check_config(adapter, path, config)
    for name in (*TOKENIZER_FILES, GENERATION_CONFIG):
        for folder in (base, adapter):
            if (folder / name).is_symlink() or (folder / name).exists():
                check_file(folder.name, folder, folder / name)
    weights = Checkpoint(base.name, base).paths
    if [path.name for path in weights] != [SINGLE] and not (base / INDEX).exists():
        raise SourceError(
            f"{base}: transformers reads {SINGLE} or the files of {INDEX}, not "
            f"{', '.join(path.name for path in weights[:3])}; rename the weight files"
        )


def _check_config(adapter: Path, path: Path, config: Mapping[str, Any]) -> None:
    """Check that peft reads nothing but the weights beside the config. Raises SourceError."""
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise SourceError(f"{adapter}: {path} has no peft_type")
    if kind.upper() not in _KINDS:
        raise SourceError(
            f"{adapter}: {path}: adapters of the peft_type {kind[:_MAX_LENGTH]!r} cannot be "
            f"merged; only {', '.join(_KINDS)} can"
        )
    for key in _INITIALIZATIONS:
        if config.get(key):
            raise SourceError(
                f"{adapter}: {path}: {key} refers to other files or modules, which are not read; "
                "remove it if the adapter is trained"
            )
    for key, value in config.items():
        if key not in _NAMES and (named := _path_in(value)) is not None:
            raise SourceError(
                f"{adapter}: {path}: {key[:_MAX_LENGTH]} names the path "
                f"{named[:_MAX_LENGTH]!r}, which is not read; remove it"
            )


def _path_in(value: Any) -> str | None:
    """Return a text with a slash in a JSON value, or None."""
    if isinstance(value, str):
        return value if "/" in value else None
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inner, list):
        return None
    return next((path for item in inner if (path := _path_in(item)) is not None), None)


def _digest(base: Path, adapter: Path) -> str:
    """Return a digest of the adapter's contents and of samples of the base's files."""
    digest = hashlib.blake2b(f"{_SCHEME} peft {version('peft')}".encode(), digest_size=8)
    names = {ADAPTER_CONFIG, _WEIGHTS}
    if _adds_embeddings(adapter / _WEIGHTS):
        names |= set(TOKENIZER_FILES)
    for path in sorted(p for p in adapter.iterdir() if p.name in names):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".jinja", ".txt"):
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            _sample(path, digest)
    return digest.hexdigest()


def _adds_embeddings(path: Path) -> bool:
    try:
        return any(map(_is_whole_embedding, _shapes(path)))
    except SafetensorError:  # _merge reports it
        return False


def _sample(path: Path, digest: Any) -> None:
    with path.open("rb") as file:
        for part in windows(path.stat().st_size, _WINDOWS):
            file.seek(part.start)
            digest.update(file.read(part.stop - part.start))
