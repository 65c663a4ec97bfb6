"""The files of lm-eval's tasks: where they lie, what they are made of, and their documents."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from .code import check_trust

_JSON = (".json", ".jsonl")
_HOOK = re.compile(r"!function\s+['\"]?([\w.]+)\.\w+")
_INCLUDE = re.compile(r"^include:\s*(.+)$", re.MULTILINE)
DOCUMENTS_MISSING = (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetsError)
"""What is raised where it is a task's documents that cannot be had."""
REMEDY = (
    "dataset_path is a JSON or JSONL file, or json with dataset_kwargs: {data_files: FILE}, or a "
    "hub id, which needs the network or a cache (HF_HOME) that has it"
)


def file_of(task: Any) -> str:
    """The YAML that a task was read from; `code` where there is none."""
    return str((getattr(task.config, "metadata", None) or {}).get("config_source", "code"))


def digest_of(tasks: Sequence[Any]) -> str:
    """A hash of the tasks' files: YAML, what it includes, and its hooks' modules beside it."""
    texts: dict[Path, str] = {}
    waiting = [Path(file_of(task)) for task in tasks]
    while waiting:
        path = waiting.pop()
        if path in texts or not path.is_file():
            continue
        texts[path] = text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            continue
        hooks = [f"{name.replace('.', '/')}.py" for name in _HOOK.findall(text)]
        names = hooks + [name.strip(" '\"") for name in _INCLUDE.findall(text)]
        waiting += [path.parent / name for name in names]
    digest = hashlib.blake2b(digest_size=6)
    for text in sorted(texts.values()):
        digest.update(text.encode())
    return digest.hexdigest()


@contextlib.contextmanager
def local_documents() -> Iterator[None]:
    """dataset_path may be a JSON file, and paths are also looked for beside the task's YAML."""
    whole = ConfigurableTask.download
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()

    def download(self: Any, given: dict[str, Any] | None = None, **more: Any) -> None:
        folder = Path(file_of(self)).parent
        check_trust(self.task_name, given)
        given = {**(given or {}), "trust_remote_code": False}
        path = self.DATASET_PATH
        if isinstance(path, str) and path.endswith(_JSON):
            given = {"data_files": path, **given}
            self.DATASET_PATH = "json"
        if "data_files" in given:
            given["data_files"] = _found(given["data_files"], folder)
        elif isinstance(path, str) and not Path(path).exists() and (folder / path).is_dir():
            self.DATASET_PATH = str(folder / path)
        whole(self, given, **more)

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = whole
        if not bars:
            datasets.enable_progress_bars()


def _found(files: Any, folder: Path) -> Any:
    """Relative paths from the current folder, as in lm-eval, or else from the task's."""
    if isinstance(files, dict):
        return {split: _found(part, folder) for split, part in files.items()}
    if isinstance(files, list | tuple):
        return [_found(part, folder) for part in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() and not Path(files).exists() else files
