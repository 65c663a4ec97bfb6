"""Restrict the code that tasks of lm-eval may run to the user's folders and lm-eval's own package.

lm-eval itself follows `include` and `!function` to any path, imports modules from the current
folder, and downloads the code of unknown metrics from the hub.
"""

import contextlib
import functools
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.tasks
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import _factory, _yaml_loader

from objectives.errors import TaskError


class ForeignCodeError(TaskError):
    """A task refers to code outside of the folders whose code may run."""


@contextlib.contextmanager
def only_from(folders: Sequence[Path]) -> Iterator[None]:
    """Refuse code from other folders while the context is entered. Raises ForeignCodeError."""
    roots = [folder.resolve() for folder in folders]
    roots.append(Path(lm_eval.tasks.__file__).resolve().parent)
    check = functools.partial(_check, roots)
    guards: list[tuple[Any, str, Callable[..., Any]]] = [
        (_yaml_loader, "load_yaml", functools.partial(_load_yaml, check, _yaml_loader.load_yaml)),
        (_factory, "load_yaml", functools.partial(_load_yaml, check, _factory.load_yaml)),
        (
            _yaml_loader,
            "_import_func_in_yml",
            functools.partial(_function, check, _yaml_loader._import_func_in_yml),
        ),
        (lm_eval.api.task, "get_metric", functools.partial(_metric, lm_eval.api.task.get_metric)),
        (
            lm_eval.api.task,
            "get_prompt",
            functools.partial(_prompt, check, lm_eval.api.task.get_prompt),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, guard in guards:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, guard)
        yield


def check_trust(name: str, dataset_kwargs: Any) -> None:
    """Check that the documents do not come with their own code. Raises ForeignCodeError."""
    if isinstance(dataset_kwargs, dict) and dataset_kwargs.get("trust_remote_code"):
        raise ForeignCodeError(
            f"{name}: dataset_kwargs: trust_remote_code: code that comes with documents is never "
            "run; remove the line if the documents are plain files, or save them as JSON lines"
        )


def _check(roots: Sequence[Path], what: str, path: Path) -> None:
    path = Path(os.path.realpath(path.expanduser()))
    if not any(path.is_relative_to(root) for root in roots):
        raise ForeignCodeError(
            f"{what} is in {path.parent}, whose code may not run; if you trust it, add "
            f"--task-search-path {path.parent}"
        )


def _load_yaml(check: Any, load: Callable[..., Any], path: str | Path, **options: Any) -> Any:
    check(f"the task file {Path(path).name}", Path(path))
    return load(path, **options)


def _function(check: Any, load: Callable[..., Any], name: str, folder: Path) -> Any:
    module = str(name).rpartition(".")[0]
    beside = folder / f"{module.replace('.', '/')}.py"  # as lm-eval resolves it
    if module and beside.exists():
        check(f"!function {name}", beside)
    elif module and _is_of_current_folder(module.split(".")[0]):
        raise ForeignCodeError(
            f"!function {name} is in the current folder, whose code may not run; put "
            f"{beside.name} into {folder}"
        )
    return load(name, folder)


def _is_of_current_folder(module: str) -> bool:
    """Return whether Python would import a module only from the current folder."""
    if module in sys.modules:
        return False
    finder = importlib.machinery.PathFinder
    others = [f for f in sys.meta_path if f is not finder and hasattr(f, "find_spec")]
    if any(f.find_spec(module, None) is not None for f in others):
        return False
    current = {"", ".", os.getcwd()}
    other_folders = [folder for folder in sys.path if folder not in current]
    if finder.find_spec(module, other_folders) is not None:
        return False
    return finder.find_spec(module, [os.getcwd()]) is not None


def _metric(load: Callable[..., Any], name: str, hf_evaluate_metric: bool = False) -> Any:
    if hf_evaluate_metric or name not in metric_registry:
        raise ForeignCodeError(
            f"metric {name} is not one of lm-eval's own, and its code would be downloaded from the "
            "hub; choose another, or define it beside the task: metric: !function MODULE.NAME"
        )
    return load(name)


def _prompt(check: Any, load: Callable[..., Any], name: str, *more: Any) -> Any:
    file = str(name).split(":")[0]
    if ".yaml" in file:
        check(f"use_prompt: {name}", Path(file))
    return load(name, *more)
