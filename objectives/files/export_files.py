"""Read and write the files of an export, whose folder is not trusted when it is read.

Only regular files are opened, and links may only lead where those of a model's folder may: a file
in /proc can be a regular one, and block its reader or never end.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.errors import ExportError

from .model_files import belongs
from .text_files import UnreadableFile, open_regular, read_bytes

_MAX_BYTES = 64 << 20


def text_of(path: Path) -> str:
    """Return the UTF-8 text of a regular file of at most 64 MiB. Raises ExportError."""
    with _explained(path):
        return read_bytes(_resolved(path), _MAX_BYTES).decode("utf-8")


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
    """Return the hexadecimal digest of a regular file; None if there is no file.

    Raises ExportError for anything else.
    """
    with _explained(path):
        try:
            real = _resolved(path)
        except FileNotFoundError:
            return None
        with open_regular(real) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _resolved(path: Path) -> Path:
    """Return the file that a path leads to. Raises ExportError if it is outside of the folder."""
    real = path.resolve(strict=True)
    if not belongs(real, path.parent):
        raise ExportError(
            f"cannot read {path}: it is a link out of its folder, to {real}; if that file belongs "
            "to the export, replace the link with a copy of it"
        )
    return real


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise the errors of opening and reading a file as ExportError."""
    try:
        yield
    except UnreadableFile as error:
        raise ExportError(str(error)) from None
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError) as error:  # links in a loop, a NUL, not UTF-8
        raise ExportError(f"cannot read {path}: {error}") from None
