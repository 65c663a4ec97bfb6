"""Reading files that may be anything, and writing that survives a crash: what is renamed into
place is on the disk before."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from objectives.errors import ExportError

_LARGEST = 64 << 20
"""Bytes of a text that is read whole."""


def sync(path: Path) -> None:
    """Wait until the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def text_of(path: Path) -> str:
    """A small regular file, as UTF-8. Raises ExportError, also for pipes, devices and folders."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ExportError(f"{path} is not a regular file")
        if info.st_size > _LARGEST:
            raise ExportError(f"{path} has {info.st_size} bytes; at most {_LARGEST} are read")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8, or a path with NUL
        raise ExportError(f"{path} cannot be read: {error}") from None


def json_of(path: Path) -> Any:
    """A small file of JSON. Raises ExportError."""
    text = text_of(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ExportError(f"{path} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str | None:
    """The digest of a regular file; None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
