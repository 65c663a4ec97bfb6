"""The files of lm-eval's tasks: their location, a digest of them, and their documents."""

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
"""The errors that are raised if a task's documents cannot be loaded."""
REMEDY = (
    "dataset_path must be a JSON or JSONL file, or json with dataset_kwargs: {data_files: FILE}, "
    "or a hub id, which needs the network or a cached copy (HF_HOME)"
)


def file_of(task: Any) -> str:
    """Return the path of the YAML file that defines a task; `code` if there is none."""
    return str((getattr(task.config, "metadata", None) or {}).get("config_source", "code"))


def digest_of(tasks: Sequence[Any]) -> str:
    """Return a hash of the tasks' YAML files, the files they include, and the modules of hooks."""
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
    """While entered, tasks may load local datasets.

    These are a JSON file as dataset_path, and paths relative to the task's YAML file. Datasets with
    their own code are refused, and progress bars are disabled.
    """
    original = ConfigurableTask.download
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()

    def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **more: Any) -> None:
        folder = Path(file_of(self)).parent
        check_trust(self.task_name, dataset_kwargs)
        options = {**(dataset_kwargs or {}), "trust_remote_code": False}
        path = self.DATASET_PATH
        if isinstance(path, str) and path.endswith(_JSON):
            options = {"data_files": path, **options}
            self.DATASET_PATH = "json"
        if "data_files" in options:
            options["data_files"] = _resolved(options["data_files"], folder)
        elif isinstance(path, str) and not Path(path).exists() and (folder / path).is_dir():
            self.DATASET_PATH = str(folder / path)
        original(self, options, **more)

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = original
        if not bars:
            datasets.enable_progress_bars()


def _resolved(files: Any, folder: Path) -> Any:
    """Resolve paths relative to the working directory, or, if the file is not there, the task's
    folder."""
    if isinstance(files, dict):
        return {split: _resolved(part, folder) for split, part in files.items()}
    if isinstance(files, list | tuple):
        return [_resolved(part, folder) for part in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() and not Path(files).exists() else files
