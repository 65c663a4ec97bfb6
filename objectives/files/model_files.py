"""The files of a model's folder, which may come from anywhere: only regular files, only inside it.

A folder in the cache of Hugging Face holds links to that cache's blobs; no other link is followed
out of a model's folder.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.errors import SourceError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt")
_MORE_TEXTS = "additional_chat_templates"
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024
_BOM = b"\xef\xbb\xbf"
_LARGEST = 64 << 20
"""Bytes of a JSON file that is read whole: an index of a model of 100,000 tensors has 10 MB."""
_DEEPEST = 64


def check_texts(label: str, folder: Path) -> None:
    """Check the files of configuration and tokenizer. Raises SourceError."""
    for path in _texts(folder):
        check_file(label, folder, path)


def _texts(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / _MORE_TEXTS):
        for pattern in _TEXTS:
            yield from sorted(place.glob(pattern))


def check_file(label: str, folder: Path, path: Path) -> None:
    """Refuse what is not a whole regular file of the folder. Raises SourceError."""
    where = f"{label}: {str(path)!r}" if not str(path).isprintable() else f"{label}: {path}"
    try:
        real = path.resolve(strict=True)
        kind = real.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = "is a link to nothing" if path.is_symlink() else f"cannot be read: {error}"
        raise SourceError(f"{where} {reason}; download the model again") from None
    if not _belongs(real, folder):
        raise SourceError(
            f"{where} leads out of the model's folder, to {real}; put a copy of that file "
            "in its place, if it belongs to the model"
        )
    if not stat.S_ISREG(kind.st_mode):
        raise SourceError(f"{where} is not a regular file")
    if kind.st_size <= _LFS_BYTES and _begins(path, _LFS):
        raise SourceError(
            f"{where} is a Git LFS pointer, not the file itself; "
            "run git lfs pull in that folder, or download the model again"
        )


def _belongs(real: Path, folder: Path) -> bool:
    """Whether a resolved path is inside the folder, or a blob of the cache of Hugging Face."""
    root = folder.resolve()
    if real.is_relative_to(root):
        return True
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        repository = root.parent.parent
        return real.is_relative_to(repository / "blobs") or real.is_relative_to(
            repository.parent / "blobs"
        )
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE).resolve()
    return real.is_relative_to(cache) and "blobs" in real.relative_to(cache).parts[:2]


def _begins(path: Path, text: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(text)) == text


def read_json(label: str, path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises SourceError."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise SourceError(f"{label}: cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise SourceError(f"{label}: {path} is larger than {_LARGEST >> 20} MiB")
    if data.startswith(_BOM):
        raise SourceError(
            f"{label}: {path} begins with a byte order mark, which transformers does not read; "
            "save it as UTF-8 without one"
        )
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SourceError(f"{label}: {path} is not UTF-8 text: {error}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SourceError(f"{label}: {path} is not JSON: {reason[:200]}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{label}: {path} is not a mapping of keys to values")
    if _depth_exceeds(value, _DEEPEST):
        raise SourceError(f"{label}: {path} is nested more than {_DEEPEST} levels deep")
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def weight_files(label: str, folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: model.safetensors, else those that the index
    names. A folder that has neither gives all that it has. Raises SourceError."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() or single.is_symlink():
        paths = [single]
    elif index.exists() or index.is_symlink():
        check_file(label, folder, index)
        paths = _of_index(label, folder, index)
    else:
        paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        check_file(label, folder, path)
    return paths


def _of_index(label: str, folder: Path, index: Path) -> list[Path]:
    files = read_json(label, index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise SourceError(f"{label}: {index} has no weight_map that names a file for each tensor")
    names = sorted(set(files.values()))
    for name in names:
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise SourceError(
                f"{label}: {index} names the file {name[:200]!r}, "
                "which is outside of the model's folder"
            )
        if not _exists(folder / name):
            raise SourceError(
                f"{label}: {index} names the file {name[:200]!r}, which is not there; "
                "download the model again"
            )
    if not names:
        raise SourceError(f"{label}: {index} names no files")
    return [folder / name for name in names]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False
