"""study.yaml (or an evol_merge_config.yaml) in, a frozen StudyConfig out, or a ConfigError.

Paths are relative to the file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from storage.database.url import storage_url

from .errors import ConfigError
from .schema import StudyConfig


def load_config(
    path: Path, task_folders: Iterable[Path] = (), benchmarks: bool | None = None
) -> StudyConfig:
    """Read and check a file; tasks without a kind are looked up. Raises ConfigError.

    `task_folders` are where tasks of lm-eval may be, whose code will run; `benchmarks` whether its
    common ones may be searched against, None where no search begins.
    """
    data = _mapping(path)
    folder, task_folders = path.resolve().parent, tuple(task_folders)
    if lacking := [str(place) for place in task_folders if not place.is_dir()]:
        raise ConfigError(f"--task-search-path {lacking[0]}: there is no such folder")
    if isinstance(data.get("tasks"), list):
        places = [*task_folders, folder, folder / "tasks"]
        data["tasks"] = [_resolved(path, task, places) for task in data["tasks"]]
    if isinstance(data.setdefault("study", {}) or {}, dict):
        data["study"] = {"name": path.stem} | (data["study"] or {})
    try:
        return StudyConfig.model_validate(data).at(path, task_folders, benchmarks)
    except ValidationError as error:
        raise ConfigError(_message(path, data, error)) from None


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
    found = next((p for p in (f / f"{given['name']}.yaml" for f in places) if p.exists()), None)
    own = {} if found is None else _mapping(found, _TaskLoader)
    if found is None or "kind" not in own:
        return given | {"kind": "lm_eval"}
    if "data" not in own:
        raise ConfigError(f"{found}: a task file needs data, a question file")
    folder = found.resolve().parent
    own["data"] = folder / str(own["data"])
    if (folder / str(own.get("prompt"))).is_file():
        own["prompt"] = str(folder / str(own["prompt"]))
    return own | given


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"key {twice} stands twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


class _TaskLoader(_Loader):
    """One to which the hooks in lm-eval's task files are just there."""


_TaskLoader.add_constructor("!function", lambda loader, node: None)


def _mapping(path: Path, loader: type[_Loader] = _Loader) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a study: it must be a mapping with genome and tasks")
    return data


_PLAIN = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_type": "must be a text",
}


def _message(path: Path, data: dict[str, Any], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = _place(problem["loc"], data)
        text = _PLAIN.get(problem["type"], problem["msg"]).removeprefix("Value error, ")
        for line in text.split("\n"):
            joint = "." if place and ": " in line and problem["type"] == "value_error" else ": "
            lines.append(f"{place}{joint}{line}" if place else line)
    if len(lines) == 1:
        return f"{path}: {lines[0]}"
    return f"{path} is not a valid study:\n" + "\n".join(f"  {line}" for line in lines)


def _place(loc: tuple[int | str, ...], data: dict[str, Any]) -> str:
    """The key's path, a task by its name where it has one."""
    parts = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "tasks" and isinstance(loc[1], int):
        task = data["tasks"][loc[1]]
        if isinstance(task, dict) and isinstance(task.get("name"), str):
            parts[1] = task["name"]
    return ".".join(parts)
