"""Load a study's tasks, native ones and lm-eval's, and split their questions."""

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from objectives.tasks.scorer_calls import Scoring
from objectives.tasks.task import Question, Tokenizer
from study.config.load import task_file
from study.config.study import StudyConfig
from study.config.task import TaskConfig

if TYPE_CHECKING:
    from objectives.tasks.lm_eval.task import LmEvalTask

log = logging.getLogger(__name__)

Native: TypeAlias = MultipleChoice | Retrieval
Tasks: TypeAlias = "list[Native | LmEvalTask]"
MIN_HELD_OUT = 20
"""Held-out questions of each task that the bootstrap needs for reliable intervals."""


@dataclass(frozen=True)
class TaskKind:
    """A kind of task with a question file."""

    parse_row: Callable[..., Question]
    """Returns the question in a row of the file."""
    create: Callable[..., Native]
    """The class of the task."""
    max_tokens: int
    """The default of `max_tokens`."""


TASK_KINDS: Mapping[str, TaskKind] = {
    "multiple_choice": TaskKind(multiple_choice.parse_row, MultipleChoice, 1),
    "retrieval": TaskKind(retrieval.parse_row, Retrieval, 7),
}


def native_tasks(config: StudyConfig) -> dict[str, Native]:
    """Return the tasks with question files, by name. Raises QuestionError and TaskError."""
    return {task.name: _task(config, task) for task in config.tasks if task.kind != "lm_eval"}


def lm_eval_tasks(
    config: StudyConfig, tokenizer: Any, context: int | None
) -> "dict[str, LmEvalTask]":
    """Return lm-eval's tasks by name. `context` is the models' maximum number of tokens.

    Raises TaskError.
    """
    requested = [task for task in config.tasks if task.kind == "lm_eval"]
    if not requested:
        return {}
    if importlib.util.find_spec("lm_eval") is None:
        raise TaskError(
            f"{requested[0].name}: there is no {requested[0].name}.yaml beside {config.file}, "
            "and lm-eval, which may have this task, is not installed: pip install '.[lm-eval]'"
        )
    for task in requested:
        _check_task_folder(config, task.name)
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
    loader = LmEval(rules, tokenizer, context)
    tasks = loader.tasks(
        [TaskRequest(task.name, task.weight, task.metric, _scoring(task)) for task in requested]
    )
    return {task.name: task for task in tasks}


def split_questions(
    config: StudyConfig, native: Mapping[str, Native], lm_eval: "Mapping[str, LmEvalTask]"
) -> tuple[Tasks, Tasks]:
    """Return the tasks with their search questions, and those that have held-out questions with
    these."""
    search: Tasks = []
    held_out: Tasks = []
    for name in (task.name for task in config.tasks):
        task = native.get(name) or lm_eval[name]
        for_search, for_held_out = split(task.questions, config.study.held_out)
        if name in native:  # lm-eval's tasks are loaded with the limit applied
            for_search = tuple(_limited(config, for_search))
        search.append(task.with_questions(for_search))
        held_out += [task.with_questions(for_held_out)] if for_held_out else []
    return search, held_out


def question_sets(
    config: StudyConfig,
    search: Tasks,
    held_out: Tasks,
    tokenizer: Tokenizer,
    rows: int,
    context: int | None,
) -> tuple[QuestionSet, QuestionSet]:
    """Return the search questions and the held-out questions that fit the models' context.

    `rows` is the number of rows of the models' embedding. Questions that are too long are left out
    with a warning if their task has `on_bad: skip`; otherwise they raise TaskError.
    """
    fitting = _fitting(config, QuestionSet(search, tokenizer, rows), context)
    names = {task.name for task in fitting.tasks}
    if missing := [task.name for task in search if task.name not in names]:
        raise TaskError(
            f"{missing[0]}: all questions are too long for the models, whose context is {context} "
            "tokens with the answer; shorten the template (num_fewshot)"
        )
    return fitting, _fitting(config, QuestionSet(held_out, tokenizer, rows), context)


def few_held_out(config: StudyConfig, held_out: QuestionSet) -> dict[str, int]:
    """Return the number of held-out questions of each task that has fewer than MIN_HELD_OUT."""
    sizes = {task.name: len(task.questions) for task in held_out.tasks}
    counts = {task.name: sizes.get(task.name, 0) for task in config.tasks if task.weight}
    return {name: count for name, count in counts.items() if count < MIN_HELD_OUT}


def few_held_out_text(few: Mapping[str, int]) -> str:
    """Return the warning for the result of `few_held_out`."""
    listed = " and ".join(f"{count} of {name}" for name, count in few.items())
    return (
        f"too few held-out questions for a verdict: {listed}; every task needs at least "
        f"{MIN_HELD_OUT}; add questions or raise study.held_out"
    )


def _fitting(config: StudyConfig, questions: QuestionSet, context: int | None) -> QuestionSet:
    if context is None or questions.longest - 1 <= context:  # an answer's last token is not read
        return questions
    skips = {task.name for task in config.tasks if task.on_bad == "skip"}
    tasks: Tasks = []
    for task, prompts_Q in zip(questions.tasks, questions.prompts_of_tasks, strict=True):
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
        if fitting := [question for question, size in pairs if size <= context]:
            tasks.append(task.with_questions(fitting))  # type: ignore[arg-type]
    return QuestionSet(tasks, questions.tokenizer)


def _too_long(name: str, long: Sequence[tuple[Question, int]], context: int) -> str:
    question, size = long[0]
    count = f" ({len(long)} such questions)" if len(long) > 1 else ""
    return (
        f"{question.location or name}: the prompt has {size} tokens with its answer, but the "
        f"context of the models is {context}{count}"
    )


def _scoring(task: TaskConfig) -> Scoring:
    return Scoring(task.scorer_concurrency, task.scorer_timeout, task.scorer_retries)


def _check_task_folder(config: StudyConfig, name: str) -> None:
    """Check that a task of lm-eval beside the config is in a task folder: its code would run.

    Raises TaskError.
    """
    for folder in (config.folder, config.folder / "tasks"):
        path = task_file(name, [folder])
        allowed = path and any(path.is_relative_to(p.resolve()) for p in config.task_folders)
        if path is not None and not allowed:
            raise TaskError(
                f"{name}: {path} is a task of lm-eval, which runs code; to allow it, pass "
                f"--task-search-path {folder}"
            )


def _chat_template(config: StudyConfig, tokenizer: Any) -> bool:
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if config.apply_chat_template and not has_template:
        raise TaskError(
            "apply_chat_template: the base model's tokenizer has no chat template; set it to false"
        )
    if config.apply_chat_template is None and not has_template:
        log.info("the tokenizer has no chat template: prompts of lm-eval's tasks are plain text")
    return has_template if config.apply_chat_template is None else config.apply_chat_template


def _task(config: StudyConfig, task: TaskConfig) -> Native:
    assert task.kind is not None
    assert task.data is not None
    kind = TASK_KINDS[task.kind]
    name = task.prompt or f"{task.kind}_kdd"
    if task.prompt is None:
        log.info(
            "%s: the prompt is %s, whose examples are questions of a shop; prompt: %s_instruct has "
            "none",
            *(task.name, name, task.kind),
        )
    template = load_template(name, config.folder, config.num_fewshot)
    parse = partial(kind.parse_row, fields=_fields(task))
    questions = read_questions(config.folder / task.data, task.kind, parse, task.on_bad)
    max_tokens = task.max_tokens or kind.max_tokens
    return kind.create(task.name, task.weight, questions, template, max_tokens, task.scorer)


def _fields(task: TaskConfig) -> Fields | None:
    if task.fields is None:
        return None
    names = task.fields.question
    question = (names,) if isinstance(names, str) else names
    return Fields(question, task.fields.answer, task.fields.options, task.fields.first)


def _limited(config: StudyConfig, questions: Sequence[Question]) -> list[Question]:
    """Return the first `limit` questions by id, or with `shuffle` by a hash of seed and id."""
    if config.limit is None:
        return list(questions)
    seed = config.study.seed if config.shuffle else None

    def rank(question: Question) -> bytes:
        text = f"{question.id}" if seed is None else f"{seed} {question.id}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    chosen = sorted(questions, key=rank)[: config.limit]
    return sorted(chosen, key=lambda q: q.id)
