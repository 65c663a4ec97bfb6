"""Adapters (LoRA and what else peft knows) merged into their base, once, in a folder of a cache.

A folder of the cache is named after the contents of base and adapter, appears whole or not at
all, and is made by one process while others wait.
"""

import hashlib
import json
import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import safe_open

from objectives.atomic_files import sync
from objectives.errors import SourceError

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_SCHEME = "1"
"""Changes whenever the same base and adapter give another folder."""
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
    from transformers import AutoModelForCausalLM

    from objectives.models.tokenizer import FILES

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=False)
        taken = set(peft.get_peft_model_state_dict(adapted))
        if strange := taken ^ _names(adapter / _WEIGHTS):  # of which peft only warns
            raise ValueError(f"{len(strange)} tensors are in one of them only, as {min(strange)}")
        adapted.merge_and_unload().save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # peft and transformers raise whatever a file's contents make them
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"{adapter}: the adapter does not fit {base}: {reason}") from None
    for name in FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def _names(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{adapter}: cannot read {path}: {error}") from None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise SourceError(f"{adapter}: {path} names no peft_type")


def _digest(base: Path, adapter: Path) -> str:
    """Of names, sizes and contents: the adapter's whole, of the base's large files windows."""
    digest = hashlib.blake2b(f"{_SCHEME} peft {version('peft')}".encode(), digest_size=8)
    for path in sorted(p for p in adapter.iterdir() if p.name in (ADAPTER_CONFIG, _WEIGHTS)):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".jinja", ".txt"):
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            _sample(path, digest)
    return digest.hexdigest()


def _sample(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        for start in range(0, size - _WINDOW + 1, (size - _WINDOW) // (_WINDOWS - 1)):
            file.seek(start)
            digest.update(file.read(_WINDOW))
