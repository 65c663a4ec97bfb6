"""Read and write the JSON and text files of an export."""

import hashlib
import json
from pathlib import Path
from typing import Any

from objectives.errors import ExportError

from .text_files import UnreadableFile, read_bytes

_MAX_BYTES = 64 << 20


def text_of(path: Path) -> str:
    """Return the UTF-8 text of a regular file of at most 64 MiB. Raises ExportError."""
    try:
        return read_bytes(path, _MAX_BYTES).decode("utf-8")
    except UnreadableFile as error:
        raise ExportError(str(error)) from None
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ExportError(f"cannot read {path}: {error}") from None


def json_of(path: Path) -> Any:
    """Return the value of a JSON file of at most 64 MiB. Raises ExportError."""
    text = text_of(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ExportError(f"cannot read {path}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, data: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str | None:
    """Return the hexadecimal digest of a regular file; None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
