"""Find and check tasks of lm-eval, and build their requests once for a study.

A task's files are code: they have hooks, and templates that can run any code. They are read only
from the user's folders and from lm-eval's own package.
"""

import contextlib
import difflib
import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.defaults import DEFAULT_MAX_LENGTH, DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from objectives.errors import TaskError
from objectives.tasks.questions.split import held_out
from objectives.tasks.task import Question

from .checks import LOADING, check_kind, errors_as_task_error, quiet, seeded
from .code import only_from
from .fewshot import as_json, exclude_held_out_from_fewshot, held_out_documents
from .files import digest_of, file_of, local_documents
from .groups import TaskRequest, has_task, scored_tasks
from .prompts import RequestConverter
from .rendering import cache_rendering
from .task import Document, Leaf, LmEvalTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """The settings of a study for all its tasks of lm-eval."""

    folders: tuple[Path, ...]
    """The folders that are searched for tasks and whose code may run."""
    benchmarks: bool | None = False
    """Whether common benchmarks may be optimized; None skips the check."""
    held_out: float = 0.0
    limit: int | None = None
    """The maximum number of search documents of each task; held-out ones among them are extra."""
    shuffle: int | None = None
    """The seed of the random choice of the `limit` documents; None takes the first ones."""
    num_fewshot: int | None = None
    chat_template: bool = False
    multiturn: bool = True


class LmEval:
    """Loads tasks of lm-eval for one tokenizer."""

    def __init__(self, rules: Rules, tokenizer: Any, context: int | None) -> None:
        """`context` is the maximum number of tokens of the models; None if unknown.

        Raises TaskError if a folder does not exist.
        """
        for folder in rules.folders:
            if not folder.is_dir():
                raise TaskError(f"--task-search-path {folder}: there is no such folder")
        self._rules = rules
        self._converter = RequestConverter(tokenizer, context or DEFAULT_MAX_LENGTH)

    def task(self, name: str, weight: float, metric: str) -> LmEvalTask:
        """Return a single task or group. Raises TaskError."""
        return self.tasks([TaskRequest(name, weight, metric)])[0]

    def tasks(self, requests: Sequence[TaskRequest]) -> list[LmEvalTask]:
        """Return tasks or groups. Raises TaskError.

        They are loaded together, so that the examples of one do not contain held-out questions of
        another.
        """
        loaded = []
        for request in requests:
            entry = self._load(request.name)
            with errors_as_task_error(request.name, "its members cannot be scored together"):
                tasks, by_size = scored_tasks(request, entry)
            for task in tasks:
                self._check(task.task_name)
                check_kind(task.task_name, task)
                self._set_fewshot(task)
            loaded.append((request, tasks, by_size))
        held_out_texts = self._held_out([task for _, tasks, _ in loaded for task in tasks])
        return [
            self._task(request, tasks, by_size, held_out_texts)
            for request, tasks, by_size in loaded
        ]

    def _task(
        self,
        request: TaskRequest,
        tasks: Sequence[Any],
        by_size: bool,
        held_out_texts: frozenset[str],
    ) -> LmEvalTask:
        leaves, questions = [], []
        for number, task in enumerate(tasks):
            leaf = self._leaf(task, request, held_out_texts)
            leaves.append(leaf)
            questions += [
                Document(as_json(instances[0].doc), "", (), (), number, k)
                for k, instances in leaf.instances.items()
            ]
        version = f"lm_eval {lm_eval.__version__}, files {digest_of(tasks)}"
        return LmEvalTask(
            request.name, request.weight, tuple(leaves), by_size, tuple(questions), version
        )

    def _held_out(self, tasks: Sequence[Any]) -> frozenset[str]:
        """Return the held-out documents of all tasks, as JSON; empty if no task has examples."""
        if not any(task.config.num_fewshot for task in tasks):
            return frozenset()
        texts: frozenset[str] = frozenset()
        for task in tasks:
            with errors_as_task_error(task.task_name, "its documents cannot be read"), seeded():
                texts |= held_out_documents(task, self._rules.held_out)
        return texts

    def _load(self, name: str) -> Any:
        """Return lm-eval's Task or Group. Raises TaskError."""
        self._check(name)
        in_folders = has_task(self._in_folders, name)
        manager = self._in_folders if in_folders else self._all_after_check(name)
        if name not in manager.task_index:
            raise TaskError(self._missing(name))
        with errors_as_task_error(name, LOADING), seeded(), self._guards():
            loaded = manager.load([name])
        if not loaded["tasks"]:
            raise TaskError(f"{name}: it is a group or tag without tasks")
        if name in loaded["groups"]:
            return loaded["groups"][name]
        if name in loaded["tasks"]:
            return loaded["tasks"][name]
        raise TaskError(
            f"{name}: it is a tag, for which lm-eval computes no score; list its tasks "
            f"({', '.join(sorted(loaded['tasks']))}) or define a group of them"
        )

    @contextlib.contextmanager
    def _guards(self) -> Iterator[None]:
        with local_documents(), only_from(self._rules.folders):
            yield

    @cached_property
    def _in_folders(self) -> Any:
        """The tasks in the user's folders. Indexing lm-eval's own tasks takes ten seconds."""
        return TaskManager(include_path=list(self._rules.folders), include_defaults=False)

    def _all_after_check(self, name: str) -> Any:
        """Return all tasks. Raises TaskError if the user's file of this name is invalid."""
        for path in (p for folder in self._rules.folders for p in folder.rglob(f"{name}.yaml")):
            with errors_as_task_error(name, f"{path} cannot be read"):
                TaskIndex.entry_from_path(path)
        return self._all

    @cached_property
    def _all(self) -> Any:
        """The tasks in the user's folders and lm-eval's own."""
        log.info("indexing lm-eval's own tasks")
        return TaskManager(include_path=list(self._rules.folders))

    def _missing(self, name: str) -> str:
        available = self._in_folders.all_tasks
        similar = difflib.get_close_matches(name, available, n=1)
        hint = f"its tasks are {', '.join(available[:8])}" if available else "it has no tasks"
        hint = f"did you mean {similar[0]}?" if similar else hint
        folders = ", ".join(map(str, self._rules.folders))
        if not folders:
            return f"{name}: lm-eval has no such task; set --task-search-path for your own tasks"
        return f"{name}: there is no such task in {folders} ({hint}), and lm-eval has none either"

    def _check(self, name: str) -> None:
        """Refuse common benchmarks, as mergekit-evolve does. Raises TaskError."""
        from mergekit.evo.config import NAUGHTY_PREFIXES

        if self._rules.benchmarks is None or name.endswith("_train"):
            return
        if any(name.startswith(prefix) for prefix in NAUGHTY_PREFIXES):
            what = (
                f"{name}: this is a common benchmark, whose score means little after a search on it"
            )
            if not self._rules.benchmarks:
                raise TaskError(
                    f"{what}; choose other questions, or if you accept that add "
                    "--i-understand-the-depths-of-the-evils-i-am-unleashing"
                )
            log.warning(what)

    def _leaf(self, task: Any, request: TaskRequest, held_out_texts: frozenset[str]) -> Leaf:
        """Build the requests of a task. Raises TaskError."""
        name, metric, filter_name = task.task_name, request.metric_name, request.filter_name
        filters = {ensemble.name: ensemble for ensemble in task._filters}
        if filter_name not in filters:
            raise TaskError(
                f"{name}: there is no filter {filter_name}; it has {', '.join(filters)}"
            )
        if not callable(task.config.process_results) and metric not in task.aggregation():
            metrics = ", ".join(f"{m},{f}" for m in task.aggregation() for f in filters)
            raise TaskError(f"{name}: there is no metric {metric},{filter_name}; it has {metrics}")
        if not callable(task.aggregation().get(metric, len)):
            raise TaskError(f"{name}: the aggregation of {metric} is not one of lm-eval's own")
        with errors_as_task_error(name, "its examples cannot be drawn"), seeded():
            exclude_held_out_from_fewshot(task, held_out_texts)
        instances = self._instances(name, task)
        cache_rendering(task, [of_doc[0].doc for of_doc in instances.values()])
        log.info("task %s of lm-eval, %d documents, from %s", name, len(instances), file_of(task))
        chain = filters[filter_name]
        return Leaf(name, task, instances, chain, metric, self._converter, request.scoring)

    def _set_fewshot(self, task: Any) -> None:
        """Set the number of examples. As in lm-eval, a task with num_fewshot: 0 keeps it."""
        of_study, own = self._rules.num_fewshot, task.get_config("num_fewshot")
        if own is None or (of_study is not None and own != 0):
            task.set_config("num_fewshot", of_study or 0)
        count = task.config.num_fewshot
        if not isinstance(count, int) or count < 0:
            raise TaskError(f"{task.task_name}: num_fewshot: {count!r} must be 0 or more")
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)

    def _instances(self, name: str, task: Any) -> dict[int, list[Any]]:
        """Return the requests of each selected document."""
        rules = self._rules
        with errors_as_task_error(name, "its requests cannot be built"), quiet(), seeded():
            task.build_all_requests(
                **self._selection(task),
                apply_chat_template=rules.chat_template,
                fewshot_as_multiturn=rules.multiturn,
                chat_template=self._converter.apply_chat_template if rules.chat_template else None,
            )
        instances = defaultdict(list)
        for instance in task.instances:
            instances[instance.doc_id].append(instance)
        for of_doc in instances.values():
            of_doc.sort(key=lambda instance: instance.idx)
        return dict(instances)

    def _selection(self, task: Any) -> dict[str, Any]:
        """Return lm-eval's option that selects documents until `limit` are search documents."""
        rules = self._rules
        if rules.limit is None:
            return {}
        questions = [Question(as_json(doc), "", (), ()) for _, doc in task.doc_iterator()]
        order = list(range(len(questions)))
        if rules.shuffle is not None:
            order.sort(key=lambda k: _rank(rules.shuffle, questions[k].id))
        search = (i for i, k in enumerate(order, 1) if not held_out(questions[k], rules.held_out))
        last = next(itertools.islice(search, rules.limit - 1, None), len(order))
        if rules.shuffle is None:
            return {"limit": last}
        return {"samples": sorted(order[:last])}


def _rank(seed: int | None, number: int) -> bytes:
    return hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
