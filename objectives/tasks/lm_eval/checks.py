"""Check that a task can be used in a study, and convert errors raised while loading it to
TaskError."""

import contextlib
import random
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
        if action == LOADING and isinstance(error, DOCUMENTS_MISSING):
            message = f"{task_name}: its documents cannot be loaded: {describe(error)}; {REMEDY}"
            raise TaskError(message) from error
        raise TaskError(f"{task_name}: {action}: {describe(error)}") from error


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
