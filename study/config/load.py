"""Read study.yaml or an evol_merge_config.yaml as a frozen StudyConfig.

Paths are relative to the file.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.database.url import storage_url

from .errors import ConfigError
from .foreign_keys import WITHOUT_EFFECT
from .problems import message
from .section import name_error
from .study import StudyConfig
from .yaml_file import PlainLoader, YamlError, read_yaml

log = logging.getLogger(__name__)


def load_config(
    path: Path, task_folders: Iterable[Path] = (), benchmarks: bool | None = None
) -> StudyConfig:
    """Read and check a file; look up the task files of tasks without a kind. Raises ConfigError.

    `task_folders` may contain tasks of lm-eval, whose code will run. `benchmarks` allows a search
    on common benchmarks; None skips that check.
    """
    data = _mapping(path)
    for key in WITHOUT_EFFECT:
        if data.pop(key, None) is not None:
            log.warning("%s: %s has no effect, as in mergekit-evolve", path, key)
    folder, task_folders = path.resolve().parent, tuple(task_folders)
    if missing := [str(path) for path in task_folders if not path.is_dir()]:
        raise ConfigError(f"--task-search-path {missing[0]}: the folder does not exist")
    if isinstance(data.get("tasks"), list):
        folders = [*task_folders, folder, folder / "tasks"]
        data["tasks"] = [_with_task_file(path, task, folders) for task in data["tasks"]]
    section = data.get("study")
    if section is None or isinstance(section, dict):
        data["study"] = _with_name(path, section or {})
    try:
        return StudyConfig.model_validate(data).with_file(path, task_folders, benchmarks)
    except ValidationError as error:
        raise ConfigError(message(path, data, error)) from None


def _with_name(path: Path, study: dict[str, Any]) -> dict[str, Any]:
    """Return the section `study` with a name, by default the file's. Raises ConfigError."""
    if study.get("name") is not None:
        return study
    if error := name_error(path.stem):
        raise ConfigError(
            f"{path}: study.name is not set, and the file's name cannot be used: {error}; set "
            "study.name, or rename the file"
        )
    return study | {"name": path.stem}


def study_url(config: StudyConfig, storage: str | None = None) -> str:
    """Return the URL of a study's database. Raises StorageError.

    `storage`, relative to the current folder, replaces the config's, relative to its file.
    """
    if storage is not None:
        return storage_url(storage, config.name, Path())
    return storage_url(config.study.storage, config.name, config.folder)


def _with_task_file(path: Path, task: Any, folders: list[Path]) -> Any:
    """Return a task's section, completed by its task file unless it has a kind.

    Without a task file it is a task of lm-eval, which is looked up later. Raises ConfigError.
    """
    entry = {"name": task} if isinstance(task, str) else task
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return task
    if entry.get("kind") == "lm_eval":
        return entry
    if "kind" in entry:
        if entry.get("data") is None:
            raise ConfigError(f"{path}: tasks.{entry['name']}: data: must name a question file")
        return entry | {"data": path.resolve().parent / str(entry["data"])}
    file = task_file(entry["name"], folders)
    defaults = {} if file is None else _mapping(file, _TaskLoader)
    if file is None or "kind" not in defaults:
        return entry | {"kind": "lm_eval"}
    if "data" not in defaults:
        raise ConfigError(f"{file}: data: must name a question file")
    folder = file.resolve().parent
    defaults["data"] = folder / str(defaults["data"])
    if os.path.isfile(folder / str(defaults.get("prompt"))):
        defaults["prompt"] = str(folder / str(defaults["prompt"]))
    return defaults | entry


def task_file(name: str, folders: Iterable[Path]) -> Path | None:
    """Return the first task file with this name, ignoring study files. Raises ConfigError."""
    for folder in folders:
        path = folder / f"{name}.yaml"
        if os.path.exists(path) and "genome" not in _mapping(path, _TaskLoader):
            return path
    return None


class _TaskLoader(PlainLoader):
    """A loader that accepts the function hooks in lm-eval's task files as null."""


_TaskLoader.add_constructor("!function", lambda loader, node: None)


def _mapping(path: Path, loader: type[PlainLoader] = PlainLoader) -> dict[str, Any]:
    try:
        data = read_yaml(path, loader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    if data is None:
        raise ConfigError(f"{path} is empty; {_expected(loader)}")
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a mapping; {_expected(loader)}")
    return data


def _expected(loader: type[PlainLoader]) -> str:
    if loader is _TaskLoader:
        return "a task file must be a mapping with kind and data"
    return "a study file must be a mapping with genome and tasks"
