"""Which study an exported folder says it is from. The folder may be a stranger's: what it names is
shown, and of it only a study file on this machine is read; no database is opened on its word."""

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
from study.config.errors import ConfigError
from study.config.load import load_config, study_url
from study.config.schema import StudyConfig

from .model_card import STUDY_FILE

_SHOWN = 200
"""Characters of a text from the folder."""


class Origin(BaseModel):
    """The contents of study.json."""

    model_config = ConfigDict(frozen=True, strict=True)

    study: str
    trial: int = Field(ge=0)
    config: str
    storage: str
    questions: dict[str, dict[str, str]]
    identity: str | None = None
    """What storage.identity gives for the study; exports of earlier versions have none."""

    @property
    def named_storage(self) -> str:
        """The database that the folder names, to be shown."""
        try:
            return printable(redacted(self.storage))[:_SHOWN]
        except (SQLAlchemyError, StorageError, ValueError):
            return "no database URL"


def read_origin(folder: Path) -> Origin:
    """Raises ExportError where study.json is not what an export writes."""
    try:
        return Origin.model_validate(json_of(folder / STUDY_FILE))
    except ExportError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{STUDY_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise ExportError(
        f"{folder} does not say which study it is from ({printable(reason)[:_SHOWN]}); export it "
        "again with python -m study.export"
    )


def study_file(
    folder: Path, origin: Origin, config: Path | None, task_folders: Sequence[Path]
) -> StudyConfig:
    """The study of `config`, or else of the file that the folder names if it is on this machine
    and no part of the folder. Raises ConfigError."""
    path = _named_file(folder, origin) if config is None else config
    loaded = load_config(path, task_folders)
    if loaded.name != origin.study:
        study = printable(origin.study)[:_SHOWN]
        raise ConfigError(f"{folder} is from study {study}, {path} is {loaded.name}")
    return loaded


def database_url(
    folder: Path, origin: Origin, loaded: StudyConfig, storage: str | None, trusted: bool
) -> str:
    """The database of --storage or of the study file, which is `trusted` if the user named it.

    Without either, SQLite where a run keeps it by default: under the current folder, beside the
    study file, or beside the exported folder. Raises ConfigError and StorageError.
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
            f"{redacted(url)}; if that file is yours, give --config {loaded.file}"
        )
    places = [path]
    if loaded.study.storage is None:
        places += [loaded.folder / "runs" / loaded.name / "study.db"]
        places += [folder.resolve().parent / "study.db"]
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        raise StorageError(f"there is no database {path}{hint(folder, origin)}")
    return f"sqlite:///{there}"


def hint(folder: Path, origin: Origin) -> str:
    """What to do where the study is not in the database that was opened."""
    return (
        f"; {folder} says that its study is in {origin.named_storage}, which is not opened on its "
        "word: give --storage"
    )


def _named_file(folder: Path, origin: Origin) -> Path:
    path, name = Path(origin.config), printable(origin.config)[:_SHOWN]
    usable: Any = False
    try:
        usable = path.is_absolute() and path.is_file()
        inside = usable and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        inside = False
    if not usable:
        raise ConfigError(f"{name}, from which {folder} came, is not here; give --config")
    if inside:
        raise ConfigError(f"{name} came with {folder} itself; give --config if you trust it")
    return path
