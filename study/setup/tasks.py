"""A study's tasks, native ones and lm-eval's, and which questions are for the search."""

import hashlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from objectives.errors import TaskError
from objectives.scoring import QuestionSet
from objectives.tasks import multiple_choice, retrieval
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts.prompt import load_template
from objectives.tasks.questions.fields import Fields
from objectives.tasks.questions.question_files import read_questions
from objectives.tasks.questions.split import split
from objectives.tasks.retrieval import Retrieval
from objectives.tasks.scorer import Scoring
from objectives.tasks.task import Question, Tokenizer
from study.config.load import task_file
from study.config.schema import StudyConfig
from study.config.task import TaskConfig

if TYPE_CHECKING:
    from objectives.tasks.lm_eval.task import LmEvalTask

log = logging.getLogger(__name__)

Native: TypeAlias = MultipleChoice | Retrieval
Tasks: TypeAlias = "list[Native | LmEvalTask]"
ENOUGH = 20
"""Held-out questions a task, below which the bootstrap says nothing that could be relied on."""
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
    from objectives.tasks.lm_eval.groups import TaskRequest
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
    tasks = theirs.tasks(
        [TaskRequest(task.name, task.weight, task.metric, _scoring(task)) for task in wanted]
    )
    return {task.name: task for task in tasks}


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
        search.append(task.with_questions(kept))
        held += [task.with_questions(out)] if out else []
    return search, held


def exams(
    config: StudyConfig,
    search: Tasks,
    held: Tasks,
    tokenizer: Tokenizer,
    rows: int,
    context: int | None,
) -> tuple[QuestionSet, QuestionSet]:
    """Return the search and the held-out questions that models of this context can be asked.

    `rows` are those of the models' embedding.

    Longer ones of tasks with `on_bad: skip` are left out with a count. Raises TaskError for others.
    """
    asked = _fitting(config, QuestionSet(search, tokenizer, rows), context)
    names = {task.name for task in asked.tasks}
    if lacking := [task.name for task in search if task.name not in names]:
        raise TaskError(
            f"{lacking[0]}: every question is too long for the models, which take {context} tokens "
            "with the answer; shorten the template (num_fewshot)"
        )
    return asked, _fitting(config, QuestionSet(held, tokenizer, rows), context)


def few_held_out(config: StudyConfig, held_out: QuestionSet) -> dict[str, int]:
    """Tasks with fewer than ENOUGH held-out questions, and how many they have."""
    sizes = {task.name: len(task.questions) for task in held_out.tasks}
    counts = {task.name: sizes.get(task.name, 0) for task in config.tasks if task.weight}
    return {name: count for name, count in counts.items() if count < ENOUGH}


def few_held_out_text(few: Mapping[str, int]) -> str:
    listed = " and ".join(f"{count} of {name}" for name, count in few.items())
    return (
        f"too few held-out questions for a verdict: {listed}; at least {ENOUGH} of every task are "
        "needed, so add questions or raise study.held_out"
    )


def _fitting(config: StudyConfig, exam: QuestionSet, context: int | None) -> QuestionSet:
    if context is None or exam.longest - 1 <= context:  # an answer's last token is not read
        return exam
    skips = {task.name for task in config.tasks if task.on_bad == "skip"}
    tasks: Tasks = []
    for task, prompts_Q in zip(exam.tasks, exam.prompts_of_tasks, strict=True):
        sizes = [max(len(p.tokens) + p.max_tokens - 1 for p in prompts) for prompts in prompts_Q]
        pairs = list(zip(task.questions, sizes, strict=True))
        long = [(question, size) for question, size in pairs if size > context]
        if long and task.name not in skips:
            remedy = ", or set on_bad: skip" if long[0][0].location else ""
            raise TaskError(
                f"{_too_long(task.name, long, context)}; shorten the question or the template "
                f"(num_fewshot){remedy}"
            )
        if long:
            log.warning("%s; left out", _too_long(task.name, long, context))
        if left := [question for question, size in pairs if size <= context]:
            tasks.append(task.with_questions(left))  # type: ignore[arg-type]
    return QuestionSet(tasks, exam.tokenizer)


def _too_long(name: str, long: Sequence[tuple[Question, int]], context: int) -> str:
    question, size = long[0]
    count = f" ({len(long)} such questions)" if len(long) > 1 else ""
    return (
        f"{question.location or name}: the prompt has {size} tokens with its answer, and the "
        f"models take {context}{count}"
    )


def _scoring(task: TaskConfig) -> Scoring:
    return Scoring(task.scorer_concurrency, task.scorer_timeout, task.scorer_retries)


def _not_beside(config: StudyConfig, name: str) -> None:
    """A task file beside the config is not read unless its folder is named: it is code."""
    for folder in (config.folder, config.folder / "tasks"):
        path = task_file(name, [folder])
        named = path and any(path.is_relative_to(p.resolve()) for p in config.task_folders)
        if path is not None and not named:
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
    parse = partial(parse, fields=_fields(given))
    questions = read_questions(config.folder / given.data, given.kind, parse, given.on_bad)
    max_tokens = given.max_tokens or tokens
    return make(given.name, given.weight, questions, template, max_tokens, given.scorer)


def _fields(given: TaskConfig) -> Fields | None:
    if given.fields is None:
        return None
    names = given.fields.question
    question = (names,) if isinstance(names, str) else names
    return Fields(question, given.fields.answer, given.fields.options, given.fields.first)


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
