"""Adapters (LoRA and what else peft knows) merged into their base, once, in a folder of a cache.

A folder of the cache is named after the contents of base and adapter, appears whole or not at
all, and is made by one process while others wait.
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
from objectives.files.atomic_files import sync
from objectives.files.model_files import INDEX, SINGLE, check_file, read_json

from .checkpoint import Checkpoint

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_SCHEME = "2"
"""Changes whenever the same base and adapter give another folder."""
_EMBEDDINGS = ("embed_tokens", "lm_head")
_WHOLE = 1 << 20
_WINDOW = 4096
_WINDOWS = 64


def cache_folder() -> Path:
    """Where merged adapters are kept: $XDG_CACHE_HOME/merge-study/adapters, or under ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "merge-study" / "adapters"


def with_adapter(base: Path, adapter: Path) -> Path:
    """The folder of the base with the adapter merged into it. Raises SourceError."""
    _check(base, adapter)
    name = f"{base.name}+{adapter.name}-{_digest(base, adapter)}"
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{name}.lock"):
            if not (cache / name).is_dir():
                _make(base, adapter, cache / name)
    except OSError as error:
        raise SourceError(
            f"{adapter}: cannot write the merged model to {cache}: {error}; "
            "XDG_CACHE_HOME names another place"
        ) from None
    return cache / name


def _make(base: Path, adapter: Path, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: we hold the lock
    log.info("merging the adapter %s into %s: once, kept in %s", adapter.name, base.name, folder)
    try:
        _merge(base, adapter, part)
        for path in part.iterdir():
            sync(path)
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    """peft's merge, in the dtype of the base's config, with the base's tokenizer."""
    import peft
    from transformers import AutoModelForCausalLM, GenerationConfig

    from objectives.models.special_tokens import GENERATION_FILE
    from objectives.models.tokenizer import FILES

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", trust_remote_code=False, local_files_only=True
        )
        shapes = _shapes(adapter / _WEIGHTS)
        grown = _make_room(model, adapter, shapes)
        adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=False)
        taken = set(peft.get_peft_model_state_dict(adapted))
        strange = {n for n in taken ^ shapes.keys() if not _is_whole_embedding(n)}
        if strange:  # of which peft only warns
            raise ValueError(f"{len(strange)} tensors are in one of them only, as {min(strange)}")
        merged = adapted.merge_and_unload()
        merged.generation_config = GenerationConfig()  # many are refused when they are saved
        merged.save_pretrained(folder)
    except (OSError, SourceError):
        raise
    except Exception as error:  # peft and transformers raise whatever a file's contents make them
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"{adapter}: the adapter does not fit {base}: {reason}") from None
    (folder / GENERATION_FILE).unlink(missing_ok=True)
    tokenizer_checkpoint = (
        adapter if grown and any((adapter / name).exists() for name in FILES) else base
    )
    for source, names in ((tokenizer_checkpoint, FILES), (base, (GENERATION_FILE,))):
        for name in names:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)


def _make_room(model: Any, adapter: Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Give the model the rows of tokens that the adapter adds; returns whether there are any.

    Embedding and head become two tensors if the adapter changes each by a LoRA of its own.
    Raises SourceError if the adapter does not have all rows of the tokens that it adds.
    """
    own = int(model.get_input_embeddings().weight.shape[0])
    whole = {n: shape[0] for n, shape in shapes.items() if _is_whole_embedding(n)}
    trained = max(_trained_tokens(adapter), default=-1) + 1
    rows = max([own, trained, *whole.values()])
    if rows > own:
        missing = [part for part in _parts(model) if not _has_rows(whole, part, rows)]
        if missing:
            raise SourceError(
                f"{adapter}: the adapter trains tokens up to {rows - 1}, its base has {own} rows, "
                f"and {_WEIGHTS} has no {missing[0]} of {rows} rows; save the adapter with "
                "save_embedding_layers=True, or merge it where it was trained "
                "(merge_and_unload) and name that folder"
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
    """Whether an adapter's tensor is all rows of an embedding or a head."""
    parts = name.split(".")
    return (
        parts[-1] == "weight"
        and not any(part.startswith("lora_") for part in parts)
        and any(part in parts for part in _EMBEDDINGS)
    )


def _trained_tokens(adapter: Path) -> list[int]:
    """The tokens whose rows alone the adapter trains, of whatever embedding."""
    settings = read_json(adapter.name, adapter / ADAPTER_CONFIG)
    named = settings.get("trainable_token_indices")
    lists = named.values() if isinstance(named, dict) else [named or []]
    return [token for tokens in lists for token in tokens]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118


def _check(base: Path, adapter: Path) -> None:
    """Say what is wrong with a folder before anything is loaded."""
    path = adapter / ADAPTER_CONFIG
    if not path.is_file():
        raise SourceError(f"{adapter} has no {ADAPTER_CONFIG}; is it an adapter's folder?")
    if not (adapter / _WEIGHTS).is_file():
        raise SourceError(
            f"{adapter} has no {_WEIGHTS}; save the adapter again with a peft that writes it"
        )
    if not any(base.glob("*.safetensors")):
        raise SourceError(f"{base} has no .safetensors files to merge an adapter into")
    for name in (ADAPTER_CONFIG, _WEIGHTS):
        check_file(adapter.name, adapter, adapter / name)
    config = read_json(adapter.name, path)
    if not isinstance(config.get("peft_type"), str):
        raise SourceError(f"{adapter}: {path} names no peft_type")
    if config.get("megatron_config"):  # peft then imports a module that the file names
        raise SourceError(
            f"{adapter}: {path}: adapters of Megatron models (megatron_config) cannot be merged"
        )
    weights = Checkpoint(base.name, base).paths
    if [path.name for path in weights] != [SINGLE] and not (base / INDEX).exists():
        raise SourceError(
            f"{base}: transformers reads {SINGLE} or the files of {INDEX}, not "
            f"{', '.join(path.name for path in weights[:3])}; give the weights that name"
        )


def _digest(base: Path, adapter: Path) -> str:
    """Of names, sizes and contents: the adapter's whole, of the base's large files windows."""
    from objectives.models.tokenizer import FILES

    digest = hashlib.blake2b(f"{_SCHEME} peft {version('peft')}".encode(), digest_size=8)
    counted = {ADAPTER_CONFIG, _WEIGHTS}
    if _adds_embeddings(adapter / _WEIGHTS):
        counted |= set(FILES)
    for path in sorted(p for p in adapter.iterdir() if p.name in counted):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".jinja", ".txt"):
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            _sample(path, digest)
    return digest.hexdigest()


def _adds_embeddings(path: Path) -> bool:
    try:
        return any(map(_is_whole_embedding, _shapes(path)))
    except SafetensorError:  # which _merge says
        return False


def _sample(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        for start in range(0, size - _WINDOW + 1, (size - _WINDOW) // (_WINDOWS - 1)):
            file.seek(start)
            digest.update(file.read(_WINDOW))
