"""Check that a task can be used in a study, and convert errors raised while loading it to
TaskError."""

import contextlib
import random
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import lm_eval.api.task
import numpy as np
from datasets.exceptions import DatasetsError
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from tqdm import tqdm

from objectives.errors import TaskError

from .files import DOCUMENTS_MISSING, REMEDY

LOADING = "cannot be loaded"
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
"""The methods of a task that render the template of the same name in its config, or call a hook."""
_EXCERPT = 80
"""The number of characters of a template that messages show."""
_SUPPORTED = ("generate_until", "multiple_choice", "loglikelihood")


def check_kind(name: str, task: Any) -> None:
    """Check that the task's output type and features are supported. Raises TaskError."""
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"{name}: it runs code that the model generates (unsafe_code), which is refused"
        )
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"{name}: images and audio are not supported")
    hook = task.config.process_results
    if hook is not None and not callable(hook):
        raise TaskError(f"{name}: process_results: {hook!r:.40} must be a !function MODULE.NAME")
    if task.OUTPUT_TYPE not in _SUPPORTED:
        raise TaskError(
            f"{name}: output_type {task.OUTPUT_TYPE} is not supported, because it needs a prompt "
            f"for every token of a document; supported are {', '.join(_SUPPORTED)}"
        )


@contextlib.contextmanager
def errors_as_task_error(task_name: str, action: str) -> Iterator[None]:
    """Raise errors of a task's files, hooks and templates as a TaskError that names the task."""
    try:
        yield
    except TaskError as error:
        if str(error).startswith(f"{task_name}: "):
            raise
        raise type(error)(f"{task_name}: {error}") from error
    except (Exception, SystemExit) as error:  # SystemExit: a hook that calls exit()
        if action == LOADING and _found_no_document(error):
            raise TaskError(
                f"{task_name}: its dataset has no documents; check dataset_path, the split (such "
                "as test_split) and process_docs"
            ) from error
        if action == LOADING and isinstance(error, DOCUMENTS_MISSING):
            message = f"{task_name}: its documents cannot be loaded: {describe(error)}; {REMEDY}"
            raise TaskError(message) from error
        where = f"{action}: {template}" if (template := _template_of(error)) else action
        raise TaskError(f"{task_name}: {where}: {describe(error)}") from error


def _template_of(error: BaseException) -> str:
    """Return the key and the start of the template, or of the hook, that raised an error; empty if
    none did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        key, values = frame.f_code.co_name, frame.f_locals
        if key in _TEMPLATES and isinstance(task := values.get("self"), lm_eval.api.task.Task):
            used = values.get(key) or getattr(task.config, key, None)  # examples have their own
            hook = getattr(used, "__name__", None)
            return f"{key} {f'!function {hook}' if hook else repr(str(used)[:_EXCERPT])}"
    return ""


def _found_no_document(error: BaseException) -> bool:
    """Return whether an error was raised because a task or a dataset is empty: lm-eval reads the
    first document, and datasets the first row."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__"))
    of_library = module.partition(".")[0] == "datasets" or module == lm_eval.api.task.__name__
    return isinstance(error, IndexError | StopIteration) and of_library and not _template_of(error)


def describe(error: BaseException) -> str:
    """Return the type and the message of an error in one line of bounded length."""
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__  # "An error occurred while generating the dataset"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Use lm-eval's seeds while a task is loaded, for hooks that use random numbers."""
    before = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable lm-eval's progress bar."""
    bar = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
