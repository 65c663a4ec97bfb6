"""Read the files of a model's folder, whose source is not trusted.

Only regular files in the folder are read. Links may only lead out of it to the blobs of the Hugging
Face cache.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.errors import SourceError

from .text_files import UnreadableFile, read_bytes

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt")
_MORE_TEXTS = "additional_chat_templates"
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024
_BOM = b"\xef\xbb\xbf"
_MAX_JSON_BYTES = 64 << 20
"""The index of a model of 100,000 tensors has 10 MB."""
_MAX_DEPTH = 64


def check_texts(label: str, folder: Path) -> None:
    """Check the configuration and tokenizer files of a folder. Raises SourceError."""
    for path in _texts(folder):
        check_file(label, folder, path)


def _texts(folder: Path) -> Iterator[Path]:
    for parent in (folder, folder / _MORE_TEXTS):
        for pattern in _TEXTS:
            yield from sorted(parent.glob(pattern))


def check_file(label: str, folder: Path, path: Path) -> None:
    """Check that a path is a regular file of the folder and not a pointer. Raises SourceError."""
    where = f"{label}: {str(path)!r}" if not str(path).isprintable() else f"{label}: {path}"
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = "is a broken link" if path.is_symlink() else f"cannot be read: {error}"
        raise SourceError(f"{where} {reason}; download the model again") from None
    if not belongs(real, folder):
        raise SourceError(
            f"{where} is a link out of the model's folder, to {real}; if that file belongs to the "
            "model, replace the link with a copy of it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{where} is not a regular file")
    if status.st_size <= _LFS_BYTES and _starts_with(path, _LFS):
        raise SourceError(
            f"{where} is a Git LFS pointer, not the file itself; "
            "run git lfs pull in that folder, or download the model again"
        )


def belongs(real: Path, folder: Path) -> bool:
    """Return whether a resolved path is in the folder or a blob of the Hugging Face cache."""
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


def _starts_with(path: Path, text: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(text)) == text


def read_json(label: str, path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file. Raises SourceError."""
    try:
        data = read_bytes(path, _MAX_JSON_BYTES)
    except UnreadableFile as error:
        raise SourceError(f"{label}: {error}") from None
    except OSError as error:
        raise SourceError(f"{label}: cannot read {path}: {error.strerror}") from None
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
    if _depth_exceeds(value, _MAX_DEPTH):
        raise SourceError(f"{label}: {path} is nested more than {_MAX_DEPTH} levels deep")
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
    """Return the safetensors files that transformers reads.

    These are model.safetensors or, if that is missing, the files that the index names. If the
    folder has neither, all its safetensors files are returned. Raises SourceError.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() or single.is_symlink():
        paths = [single]
    elif index.exists() or index.is_symlink():
        check_file(label, folder, index)
        paths = _files_in_index(label, folder, index)
    else:
        paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        check_file(label, folder, path)
    return paths


def _files_in_index(label: str, folder: Path, index: Path) -> list[Path]:
    files = read_json(label, index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise SourceError(f"{label}: {index} has no weight_map with a file for each tensor")
    names = sorted(set(files.values()))
    for name in names:
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise SourceError(
                f"{label}: {index} names the file {name[:200]!r}, "
                "which is outside of the model's folder"
            )
        if not _exists(folder / name):
            raise SourceError(
                f"{label}: {index} names the file {name[:200]!r}, which does not exist; "
                "download the model again"
            )
    if not names:
        raise SourceError(f"{label}: {index} names no files")
    return [folder / name for name in names]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # not a valid file name
        return False
