"""A study's tasks, native ones and lm-eval's, and which questions are for the search."""

import hashlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from objectives.errors import TaskError
from objectives.tasks import multiple_choice, retrieval
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts import load_template
from objectives.tasks.question_files import read_questions
from objectives.tasks.retrieval import Retrieval
from objectives.tasks.split import split
from objectives.tasks.task import Question
from study.config.schema import StudyConfig, TaskConfig

if TYPE_CHECKING:
    from objectives.tasks.lm_eval.task import LmEvalTask

log = logging.getLogger(__name__)

Native: TypeAlias = MultipleChoice | Retrieval
Tasks: TypeAlias = "list[Native | LmEvalTask]"
_KINDS: dict[str, tuple[Any, type[Native], int]] = {
    "multiple_choice": (multiple_choice.parse, MultipleChoice, 1),
    "retrieval": (retrieval.parse, Retrieval, 7),
}


def native_tasks(config: StudyConfig) -> dict[str, Native]:
    """Those with question files of our own. Raises QuestionError and TaskError."""
    return {task.name: _task(config, task) for task in config.tasks if task.kind != "lm_eval"}


def lm_eval_tasks(
    config: StudyConfig, tokenizer: Any, context: int | None
) -> "dict[str, LmEvalTask]":
    """lm-eval's tasks as the models are asked them; `context` is the most tokens that those take.

    Raises TaskError.
    """
    wanted = [task for task in config.tasks if task.kind == "lm_eval"]
    if not wanted:
        return {}
    if importlib.util.find_spec("lm_eval") is None:
        raise TaskError(
            f"{wanted[0].name}: there is no {wanted[0].name}.yaml of ours beside {config.file}, so "
            "it must be a task of lm-eval, which is not installed: pip install '.[lm-eval]'"
        )
    for task in wanted:
        _not_beside(config, task.name)
    from objectives.tasks.lm_eval.load import LmEval, Rules

    rules = Rules(
        config.task_folders,
        config.benchmarks,
        config.study.held_out,
        config.limit,
        config.study.seed if config.shuffle else None,
        config.num_fewshot,
        _chat_template(config, tokenizer),
        config.fewshot_as_multiturn is not False,
    )
    theirs = LmEval(rules, tokenizer, context)
    return {task.name: theirs.task(task.name, task.weight, task.metric) for task in wanted}


def parted(
    config: StudyConfig, native: Mapping[str, Native], theirs: "Mapping[str, LmEvalTask]"
) -> tuple[Tasks, Tasks]:
    """Every task with its search questions, and those that have any with their held-out ones."""
    search: Tasks = []
    held: Tasks = []
    for given in config.tasks:
        task = native.get(given.name) or theirs[given.name]
        kept, out = split(task.questions, config.study.held_out)
        if given.name in native:  # lm-eval's keep to the limit themselves
            kept = tuple(_limited(config, kept))
        search.append(task.only(kept))
        held += [task.only(out)] if out else []
    return search, held


def _not_beside(config: StudyConfig, name: str) -> None:
    """A task file beside the config is not read unless its folder is named: it is code."""
    for folder in (config.folder, config.folder / "tasks"):
        path = folder / f"{name}.yaml"
        named = any(path.is_relative_to(place.resolve()) for place in config.task_folders)
        if path.exists() and not named:
            raise TaskError(
                f"{name}: {path} is a task of lm-eval, whose code runs only from a folder that you "
                f"name: --task-search-path {folder}"
            )


def _chat_template(config: StudyConfig, tokenizer: Any) -> bool:
    there = getattr(tokenizer, "chat_template", None) is not None
    if config.apply_chat_template and not there:
        raise TaskError(
            "apply_chat_template: the base model's tokenizer has no chat template; set it to false"
        )
    if config.apply_chat_template is None and not there:
        log.info("the tokenizer has no chat template: prompts of lm-eval's tasks are plain text")
    return there if config.apply_chat_template is None else config.apply_chat_template


def _task(config: StudyConfig, given: TaskConfig) -> Native:
    assert given.kind is not None
    assert given.data is not None
    parse, make, tokens = _KINDS[given.kind]
    name = given.prompt or f"{given.kind}_kdd"
    template = load_template(name, config.folder, config.num_fewshot)
    questions = read_questions(config.folder / given.data, given.kind, parse, given.on_bad)
    max_tokens = given.max_tokens or tokens
    return make(given.name, given.weight, questions, template, max_tokens, given.scorer)


def _limited(config: StudyConfig, questions: Sequence[Question]) -> list[Question]:
    """The first `limit` by id, or with `shuffle` by a hash of seed and id; ids are hashes."""
    if config.limit is None:
        return list(questions)
    seed = config.study.seed if config.shuffle else None

    def rank(question: Question) -> bytes:
        text = f"{question.id}" if seed is None else f"{seed} {question.id}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    chosen = sorted(questions, key=rank)[: config.limit]
    return sorted(chosen, key=lambda q: q.id)
