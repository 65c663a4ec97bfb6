"""The study that an exported folder names as its origin.

The folder is not trusted. The database that it names is displayed but never opened, and the study
file that it names is read only if it is a local file outside the folder.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from objectives.errors import ExportError
from objectives.files.export_files import json_of
from storage.database.url import redacted, sqlite_path
from storage.errors import StorageError
from study.cli.escaping import printable
from study.cli.invocation import invocation, missing_secret
from study.cli.options import STORAGE_VARIABLE
from study.config.errors import ConfigError
from study.config.load import load_config, study_url
from study.config.study import StudyConfig

from .model_card import STUDY_FILE

_MAX_LENGTH = 200
"""Characters of a text from the folder that are displayed."""


class Origin(BaseModel):
    """The contents of study.json."""

    model_config = ConfigDict(frozen=True, strict=True)

    study: str
    trial: int = Field(ge=0)
    config: str
    storage: str
    questions: dict[str, dict[str, str]]
    identity: str | None = None
    """The identity of the study (storage/identity.py); exports of earlier versions have none."""

    @property
    def named_storage(self) -> str:
        """The database that the folder names, for display."""
        try:
            return printable(redacted(self.storage))[:_MAX_LENGTH]
        except (SQLAlchemyError, StorageError, ValueError):
            return "no database URL"


def read_origin(folder: Path) -> Origin:
    """Read study.json. Raises ExportError if it is missing or not valid."""
    try:
        return Origin.model_validate(json_of(folder / STUDY_FILE))
    except ExportError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{STUDY_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise ExportError(
        f"{folder} has no valid {STUDY_FILE} ({printable(reason)[:_MAX_LENGTH]}); export it "
        "again with python -m study.export"
    )


def study_file(
    folder: Path, origin: Origin, config: Path | None, task_folders: Sequence[Path]
) -> StudyConfig:
    """Load the study of `config`; if that is None, of the file that the folder names, which must be
    a local file outside the folder. Raises ConfigError."""
    path = _named_file(folder, origin) if config is None else config
    loaded = load_config(path, task_folders)
    if loaded.name != origin.study:
        study = printable(origin.study)[:_MAX_LENGTH]
        raise ConfigError(f"{folder} is from study {study}, {path} is {loaded.name}")
    return loaded


def database_url(
    folder: Path, origin: Origin, loaded: StudyConfig, storage: str | None, trusted: bool
) -> str:
    """Return the URL of --storage, or else of the study file, which is `trusted` if the user named
    it.

    If neither sets a database, look for the default SQLite file in the current folder, beside the
    study file, and beside the exported folder. Raises ConfigError and StorageError.
    """
    if storage is not None:
        return study_url(loaded, storage)
    url = study_url(loaded)
    path = sqlite_path(url)
    if path is None:
        if trusted:
            return url
        raise ConfigError(
            f"{folder} names the study file {loaded.file}, whose database is the server "
            f"{redacted(url)}; if you trust that file, set --config {loaded.file}"
        )
    places = [path]
    if loaded.study.storage is None:
        places += [loaded.folder / "runs" / loaded.name / "study.db"]
        places += [folder.resolve().parent / "study.db"]
    existing = next((place for place in places if place.is_file()), None)
    if existing is None:
        raise StorageError(f"there is no database {path}{hint(folder, origin)}")
    return f"sqlite:///{existing}"


def verify_lines(folder: Path, config: StudyConfig, url: str) -> list[str]:
    """Return the command that verifies a folder exported from the study in the database at `url`,
    as lines to print.

    It names the database or the study file if `database_url` would not find them by itself.
    """
    words, secret = [str(folder)], None
    named = os.environ.get(STORAGE_VARIABLE) or None
    if url != study_url(config, named):
        words += ["--storage", redacted(url)]
        secret = missing_secret(url)
    elif named is None and sqlite_path(url) is None:
        words += ["--config", str(config.file)]
    for task_folder in config.task_folders:
        words += ["--task-search-path", str(task_folder)]
    hints = [f"  (with {secret})"] if secret else []
    return [f"next: {invocation('verify', words)}", *hints]


def hint(folder: Path, origin: Origin) -> str:
    """Return the end of a message about a study that is not in the opened database."""
    return (
        f"; {folder} names the database {origin.named_storage}, which is not opened without your "
        "consent: set --storage"
    )


def _named_file(folder: Path, origin: Origin) -> Path:
    path, name = Path(origin.config), printable(origin.config)[:_MAX_LENGTH]
    usable: Any = False
    try:
        usable = path.is_absolute() and path.is_file()
        resolved = path.resolve()
        inside = usable and resolved.is_relative_to(folder.resolve())
        relative = usable and resolved != path  # a link, or /proc/self/cwd: the maker may own it
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
        inside = relative = False
    if not usable:
        raise ConfigError(
            f"{name}, the study file that {folder} names, does not exist here; set --config"
        )
    if inside or relative:
        where = f"inside {folder}" if inside else "a path with links"
        raise ConfigError(f"{name} is {where}; set --config if you trust that study file")
    return path
