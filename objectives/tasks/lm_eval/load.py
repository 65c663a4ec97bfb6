"""Tasks of lm-eval: found, checked, and their requests built once a study.

A task's files are code: hooks, and templates that can run anything. They are read only from
folders that the user named, and from lm-eval's own package.
"""

import contextlib
import difflib
import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.group import Group
from lm_eval.defaults import DEFAULT_MAX_LENGTH, DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from objectives.errors import TaskError
from objectives.tasks.questions.split import held_out
from objectives.tasks.scorer import Scoring
from objectives.tasks.task import Question

from .checks import LOADING, check_kind, failing_as, quiet, seeded
from .code import only_from
from .examples import as_json, held_out_documents, keep_apart
from .files import digest_of, file_of, local_documents
from .prompts import Writer
from .task import Document, Leaf, LmEvalTask, remember

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """What a study says of all its tasks of lm-eval."""

    folders: tuple[Path, ...]
    """Where task files are looked for, and their code run."""
    benchmarks: bool | None = False
    """Whether common benchmarks may be searched against; None does not ask."""
    held_out: float = 0.0
    limit: int | None = None
    """Search documents of each task of lm-eval at most; the held-out ones among them come too."""
    shuffle: int | None = None
    """A seed that chooses which documents `limit` leaves; None takes the first."""
    num_fewshot: int | None = None
    chat_template: bool = False
    multiturn: bool = True


@dataclass(frozen=True)
class Wanted:
    """A task or group that a study names."""

    name: str
    weight: float
    metric: str
    """A metric and a filter, as "acc,none"."""
    scoring: Scoring = field(default_factory=Scoring)

    @property
    def measure(self) -> str:
        return self.metric.partition(",")[0]

    @property
    def chain(self) -> str:
        return self.metric.partition(",")[2] or "none"


class LmEval:
    """lm-eval's tasks, as they are asked with one tokenizer. `context`: tokens the models take."""

    def __init__(self, rules: Rules, tokenizer: Any, context: int | None) -> None:
        for folder in rules.folders:
            if not folder.is_dir():
                raise TaskError(f"--task-search-path {folder}: there is no such folder")
        self._rules = rules
        self._writer = Writer(tokenizer, context or DEFAULT_MAX_LENGTH)

    def task(self, name: str, weight: float, metric: str) -> LmEvalTask:
        """The one task of `tasks`."""
        return self.tasks([Wanted(name, weight, metric)])[0]

    def tasks(self, wanted: Sequence[Wanted]) -> list[LmEvalTask]:
        """Tasks or groups by their names. Raises TaskError.

        They are loaded together, so that the examples of none show held-out questions of another.
        """
        loaded = []
        for one in wanted:
            found = self._loaded(one.name)
            with failing_as(one.name, "its members cannot be scored together"):
                tasks, by_size = _leaves_of(one.name, found, one.measure, one.chain)
            for task in tasks:
                self._check(task.task_name)
                check_kind(task.task_name, task)
                self._set_fewshot(task)
            loaded.append((one, tasks, by_size))
        held = self._held_out([task for _, tasks, _ in loaded for task in tasks])
        return [self._task(one, tasks, by_size, held) for one, tasks, by_size in loaded]

    def _task(
        self, wanted: Wanted, tasks: Sequence[Any], by_size: bool, held: frozenset[str]
    ) -> LmEvalTask:
        leaves, questions = [], []
        for number, task in enumerate(tasks):
            leaf = self._leaf(task, wanted, held)
            leaves.append(leaf)
            questions += [
                Document(as_json(requests[0].doc), "", (), (), number, k)
                for k, requests in leaf.instances.items()
            ]
        origin = f"lm_eval {lm_eval.__version__}, files {digest_of(tasks)}"
        return LmEvalTask(
            wanted.name, wanted.weight, tuple(leaves), by_size, tuple(questions), origin
        )

    def _held_out(self, tasks: Sequence[Any]) -> frozenset[str]:
        """The held-out documents of all tasks, as JSON, if one of them shows examples."""
        if not any(task.config.num_fewshot for task in tasks):
            return frozenset()
        texts: frozenset[str] = frozenset()
        for task in tasks:
            with failing_as(task.task_name, "its documents cannot be read"), seeded():
                texts |= held_out_documents(task, self._rules.held_out)
        return texts

    def _loaded(self, name: str) -> Any:
        """lm-eval's Task or Group."""
        self._check(name)
        manager = self._given if _holds(self._given, name) else self._also_own(name)
        if name not in manager.task_index:
            raise TaskError(self._missing(name))
        with failing_as(name, LOADING), seeded(), self._guards():
            found = manager.load([name])
        if not found["tasks"]:
            raise TaskError(f"{name}: it is a group or tag without tasks")
        if name in found["groups"]:
            return found["groups"][name]
        if name in found["tasks"]:
            return found["tasks"][name]
        raise TaskError(
            f"{name}: it is a tag, for which lm-eval gives no score of its own; name its tasks "
            f"({', '.join(sorted(found['tasks']))}) or make a group of them"
        )

    @contextlib.contextmanager
    def _guards(self) -> Iterator[None]:
        with local_documents(), only_from(self._rules.folders):
            yield

    @cached_property
    def _given(self) -> Any:
        """The tasks in the user's folders alone: lm-eval's own thousands take ten seconds."""
        return TaskManager(include_path=list(self._rules.folders), include_defaults=False)

    def _also_own(self, name: str) -> Any:
        """lm-eval's own tasks too, unless the user's file of this name is broken."""
        for path in (p for folder in self._rules.folders for p in folder.rglob(f"{name}.yaml")):
            with failing_as(name, f"{path} cannot be read"):
                TaskIndex.entry_from_path(path)
        return self._whole

    @cached_property
    def _whole(self) -> Any:
        log.info("looking through lm-eval's own tasks")
        return TaskManager(include_path=list(self._rules.folders))

    def _missing(self, name: str) -> str:
        there = self._given.all_tasks
        near = difflib.get_close_matches(name, there, n=1)
        shown = f"there are {', '.join(there[:8])}" if there else "they have no task"
        shown = f"did you mean {near[0]}?" if near else shown
        where = ", ".join(map(str, self._rules.folders))
        looked = f"in {where} ({shown})" if where else "in a folder: --task-search-path gives none"
        return f"{name}: there is no such task {looked}, nor among lm-eval's own"

    def _check(self, name: str) -> None:
        """mergekit-evolve's rule: common benchmarks are not optimised against."""
        from mergekit.evo.config import NAUGHTY_PREFIXES

        if self._rules.benchmarks is None or name.endswith("_train"):
            return
        if any(name.startswith(prefix) for prefix in NAUGHTY_PREFIXES):
            what = f"{name}: a common benchmark, and a merge tuned on it says nothing by it"
            if not self._rules.benchmarks:
                raise TaskError(
                    f"{what}; take other questions, or if you know what you do add "
                    "--i-understand-the-depths-of-the-evils-i-am-unleashing"
                )
            log.warning(what)

    def _leaf(self, task: Any, wanted: Wanted, held: frozenset[str]) -> Leaf:
        name, metric, chain = task.task_name, wanted.measure, wanted.chain
        chains = {ensemble.name: ensemble for ensemble in task._filters}
        if chain not in chains:
            raise TaskError(f"{name}: there is no filter {chain}; there are {', '.join(chains)}")
        if not callable(task.config.process_results) and metric not in task.aggregation():
            known = ", ".join(f"{m},{f}" for m in task.aggregation() for f in chains)
            raise TaskError(f"{name}: there is no metric {metric},{chain}; there are {known}")
        if not callable(task.aggregation().get(metric, len)):
            raise TaskError(f"{name}: the aggregation of {metric} is not one of lm-eval's own")
        with failing_as(name, "its examples cannot be drawn"), seeded():
            keep_apart(task, held)
        instances = self._instances(name, task)
        remember(task, [requests[0].doc for requests in instances.values()])
        log.info("task %s of lm-eval, %d documents, from %s", name, len(instances), file_of(task))
        return Leaf(name, task, instances, chains[chain], metric, self._writer, wanted.scoring)

    def _set_fewshot(self, task: Any) -> None:
        """A task that says 0 keeps it, as in lm-eval."""
        given, own = self._rules.num_fewshot, task.get_config("num_fewshot")
        if own is None or (given is not None and own != 0):
            task.set_config("num_fewshot", given or 0)
        count = task.config.num_fewshot
        if not isinstance(count, int) or count < 0:
            raise TaskError(f"{task.task_name}: num_fewshot: {count!r} must be a number from 0")
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)

    def _instances(self, name: str, task: Any) -> dict[int, list[Any]]:
        """Each document's requests, of the documents that are wanted."""
        rules = self._rules
        with failing_as(name, "its requests cannot be built"), quiet(), seeded():
            task.build_all_requests(
                **self._wanted(task),
                apply_chat_template=rules.chat_template,
                fewshot_as_multiturn=rules.multiturn,
                chat_template=self._writer.apply_chat_template if rules.chat_template else None,
            )
        instances = defaultdict(list)
        for instance in task.instances:
            instances[instance.doc_id].append(instance)
        for requests in instances.values():
            requests.sort(key=lambda instance: instance.idx)
        return dict(instances)

    def _wanted(self, task: Any) -> dict[str, Any]:
        """Documents until `limit` of them are for the search, as lm-eval's own option."""
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


def _holds(manager: Any, name: str, above: tuple[str, ...] = ()) -> bool:
    """Whether a task is there with all the tasks that it names, in the groups `above` it."""
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    if name in above:
        raise TaskError(f"{above[0]}: the group {name} is a member of itself")
    members = entry.cfg.get("task") if entry.cfg and "group" in entry.cfg else None
    for member in members if isinstance(members, list) else [members]:
        child = member.get("task") if isinstance(member, dict) else member
        if isinstance(child, str) and not _holds(manager, child, (*above, name)):
            return False
    return True


def _leaves_of(name: str, found: Any, metric: str, chain: str) -> tuple[list[Any], bool]:
    """The tasks that make up a score, and whether each counts by its size."""
    if not isinstance(found, Group):
        return [found], True
    for rule in found.aggregate_metric_list or []:
        if rule.metric == metric and (rule.filter_list is None or chain in rule.filter_list):
            return found.get_all_tasks(), rule.weight_by_size
    rules = [
        f"{rule.metric},{f}"
        for rule in found.aggregate_metric_list or []
        for f in rule.filter_list or ["(any)"]
    ]
    raise TaskError(
        f"{name}: the group has no score {metric},{chain}; its aggregate_metric_list gives "
        f"{', '.join(rules) or 'none'}"
    )


def _rank(seed: int | None, number: int) -> bytes:
    return hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
