"""study.yaml (or an evol_merge_config.yaml) in, a frozen StudyConfig out, or a ConfigError.

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
from .names import wrong_name
from .problems import message
from .schema import StudyConfig
from .yaml_file import PlainLoader, YamlError, read_yaml

log = logging.getLogger(__name__)


def load_config(
    path: Path, task_folders: Iterable[Path] = (), benchmarks: bool | None = None
) -> StudyConfig:
    """Read and check a file; tasks without a kind are looked up. Raises ConfigError.

    `task_folders` are where tasks of lm-eval may be, whose code will run; `benchmarks` whether its
    common ones may be searched against, None where no search begins.
    """
    data = _mapping(path)
    for key in WITHOUT_EFFECT:
        if data.pop(key, None) is not None:
            log.warning("%s: %s has no effect, as in mergekit-evolve", path, key)
    folder, task_folders = path.resolve().parent, tuple(task_folders)
    if lacking := [str(place) for place in task_folders if not place.is_dir()]:
        raise ConfigError(f"--task-search-path {lacking[0]}: there is no such folder")
    if isinstance(data.get("tasks"), list):
        places = [*task_folders, folder, folder / "tasks"]
        data["tasks"] = [_resolved(path, task, places) for task in data["tasks"]]
    section = data.get("study")
    if section is None or isinstance(section, dict):
        data["study"] = _named(path, section or {})
    try:
        return StudyConfig.model_validate(data).at(path, task_folders, benchmarks)
    except ValidationError as error:
        raise ConfigError(message(path, data, error)) from None


def _named(path: Path, study: dict[str, Any]) -> dict[str, Any]:
    """The study's section with a name: its own, or the file's. Raises ConfigError."""
    if study.get("name") is not None:
        return study
    if wrong := wrong_name(path.stem):
        raise ConfigError(
            f"{path}: study.name is not set, and the file's name does not serve: {wrong}; set "
            "study.name, or rename the file"
        )
    return study | {"name": path.stem}


def study_url(config: StudyConfig, given: str | None = None) -> str:
    """The database of a study: the one `given` on the command line, relative to the current
    folder, or the file's own, relative to the file. Raises StorageError."""
    if given is not None:
        return storage_url(given, config.name, Path())
    return storage_url(config.study.storage, config.name, config.folder)


def _resolved(path: Path, task: Any, places: list[Path]) -> Any:
    """The task with the kind, data and prompt of its own file, where it has none inline.

    What has no file of ours is taken to be lm-eval's, which looks for it when the study is set up.
    """
    given = {"name": task} if isinstance(task, str) else task
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return task
    if given.get("kind") == "lm_eval":
        return given
    if "kind" in given:
        if given.get("data") is None:
            raise ConfigError(f"{path}: tasks.{given['name']}: data: a question file is needed")
        return given | {"data": path.resolve().parent / str(given["data"])}
    found = task_file(given["name"], places)
    own = {} if found is None else _mapping(found, _TaskLoader)
    if found is None or "kind" not in own:
        return given | {"kind": "lm_eval"}
    if "data" not in own:
        raise ConfigError(f"{found}: a task file needs data, a question file")
    folder = found.resolve().parent
    own["data"] = folder / str(own["data"])
    if os.path.isfile(folder / str(own.get("prompt"))):
        own["prompt"] = str(folder / str(own["prompt"]))
    return own | given


def task_file(name: str, folders: Iterable[Path]) -> Path | None:
    """The first file of a task with this name; a study file of that name is none.

    Raises ConfigError.
    """
    for folder in folders:
        path = folder / f"{name}.yaml"
        if os.path.exists(path) and "genome" not in _mapping(path, _TaskLoader):
            return path
    return None


class _TaskLoader(PlainLoader):
    """One to which the hooks in lm-eval's task files are just there."""


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
        raise ConfigError(f"{path} is empty; {_wanted(loader)}")
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a mapping; {_wanted(loader)}")
    return data


def _wanted(loader: type[PlainLoader]) -> str:
    if loader is _TaskLoader:
        return "the file of a task must be a mapping with kind and data"
    return "a study must be a mapping with genome and tasks"
