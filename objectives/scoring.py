"""Turn answers into scores: task means, the weighted objective, and its standard error.

Q: questions of one task.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from objectives.engines.engine import Answer, Engine, Prompt
from objectives.tasks.task import Task, Tokenizer, WholeTask

from .errors import TaskError
from .sampling import Estimate, Sample, estimate

Floats = NDArray[np.float32]

_MAX_SHOWN_LENGTH = 60
"""Characters of a question in a message."""


@dataclass(frozen=True)
class TaskScores:
    """One trial's scores of one task, question by question, in the order of the questions."""

    weight: float
    scores_Q: Floats
    """The score of each question, 0 to 1. For a task that scores all its answers together: numbers
    whose mean is the task's score, and whose spread yields its standard error."""
    soft_Q: Floats
    """The probability of the correct answer, 0 to 1; equal to scores_Q if the task has none."""
    non_finite: int = 0
    """The number of questions with a NaN or infinite logit; they get the worst score."""
    cut_off: int = 0
    """The number of questions whose answer reached max_tokens before all that is scored was
    complete."""
    answers_Q: tuple[tuple[Answer, ...], ...] = field(default=(), compare=False, repr=False)
    """The answers to each question's prompts; empty if only scores were stored."""
    sample: Sample | None = None
    """The sample of the questions that were asked; the others have the score NaN and no answers.

    None if all questions were asked.
    """

    @cached_property
    def mean(self) -> float:
        """The task's score: the mean over its questions, estimated if there is a sample."""
        if self.sample is not None:
            return self._estimate.mean
        return float(self.scores_Q.mean(dtype=np.float64))

    @cached_property
    def soft(self) -> float:
        """The mean probability of the correct answer, estimated if there is a sample."""
        if self.sample is not None:
            soft_S = self.soft_Q[self.sample.asked_S].astype(np.float64)
            return estimate(soft_S, self.sample.expected_soft_Q, self.sample).mean
        return float(self.soft_Q.mean(dtype=np.float64))

    @property
    def error(self) -> float:
        """The standard error of the mean over questions; infinite for a single question.

        With a sample it includes the sampling error.
        """
        if self.sample is not None:
            estimated = self._estimate
            return math.sqrt(estimated.sampling_variance + estimated.variance / len(self.scores_Q))
        if len(self.scores_Q) < 2:
            return math.inf
        return float(self.scores_Q.std(ddof=1, dtype=np.float64)) / math.sqrt(len(self.scores_Q))

    @property
    def asked(self) -> int:
        """The number of questions that were asked."""
        return len(self.scores_Q) if self.sample is None else len(self.sample.asked_S)

    @property
    def sampling_error(self) -> float:
        """The standard error that is caused by asking only a sample of the questions."""
        return 0.0 if self.sample is None else math.sqrt(self._estimate.sampling_variance)

    @cached_property
    def _estimate(self) -> Estimate:
        assert self.sample is not None
        scores_S = self.scores_Q[self.sample.asked_S].astype(np.float64)
        return estimate(scores_S, self.sample.expected_Q, self.sample)


@dataclass(frozen=True)
class Scores:
    """One trial's scores of all tasks, by the task's name."""

    tasks: Mapping[str, TaskScores]

    @property
    def value(self) -> float:
        """The objective: the weighted sum of the tasks' means, as in mergekit-evolve."""
        return sum(task.weight * task.mean for task in self.tasks.values())

    @property
    def soft(self) -> float:
        """The weighted sum of the tasks' mean probabilities of the correct answer."""
        return sum(task.weight * task.soft for task in self.tasks.values())

    @property
    def error(self) -> float:
        """The standard error of the objective over questions."""
        return math.sqrt(sum((task.weight * task.error) ** 2 for task in self.tasks.values()))

    @property
    def sampling_error(self) -> float:
        """The part of the error that is caused by asking only a sample of the questions."""
        return math.hypot(*(t.weight * t.sampling_error for t in self.tasks.values()))

    @property
    def asked(self) -> int:
        """The number of questions that were asked."""
        return sum(task.asked for task in self.tasks.values())

    @property
    def non_finite(self) -> int:
        """The number of questions with a NaN or infinite logit."""
        return sum(task.non_finite for task in self.tasks.values())


class QuestionSet:
    """The questions of all tasks. They are tokenized once and asked of every merge."""

    def __init__(
        self,
        tasks: Sequence[Task | WholeTask],
        tokenizer: Tokenizer,
        rows: int | None = None,
    ) -> None:
        """Tokenize the questions.

        `rows` is the number of rows of the models' embedding; None if unknown.
        Raises TaskError if the tokenizer cannot encode the prompts of a task as required, or if a
        prompt has a token that is not in the models' vocabulary.
        """
        self.tasks, self.tokenizer = tuple(tasks), tokenizer
        self._prompts = [task.prompts(tokenizer) for task in self.tasks]
        if rows is not None:
            self._check_rows(rows)
        self._flat = [p for prompts_Q in self._prompts for prompts in prompts_Q for p in prompts]

    def _check_rows(self, rows: int) -> None:
        for task, prompts_Q in zip(self.tasks, self._prompts, strict=True):
            for question, prompts in zip(task.questions, prompts_Q, strict=True):
                token = max((t for p in prompts for t in (*p.tokens, *p.options)), default=0)
                if token >= rows:
                    raise TaskError(
                        f"{task.name}: the question {shorten(question.text)} contains the token "
                        f"{self.tokenizer.decode([token])!r}, id {token} in the tokenizer, but the "
                        f"models have rows for {rows} tokens only; remove it from the question and "
                        "the template, or set genome.tokenizer_source to a model with a row for it"
                    )

    @property
    def questions(self) -> int:
        """The number of questions of all tasks."""
        return sum(map(len, self._prompts))

    @property
    def prompts_of_tasks(self) -> list[list[tuple[Prompt, ...]]]:
        """The prompts of each question, by task and question."""
        return self._prompts

    @property
    def prompts(self) -> dict[str, list[Prompt]]:
        """The prompts of each task, by the task's name."""
        return {
            task.name: [p for prompts in prompts_Q for p in prompts]
            for task, prompts_Q in zip(self.tasks, self._prompts, strict=True)
        }

    @property
    def costs(self) -> list[list[int]]:
        """The tokens of each question, by task: prompts without their prefix, and answers."""
        return [
            [sum(len(p.tokens) - p.shared + p.max_tokens for p in prompts) for prompts in prompts_Q]
            for prompts_Q in self._prompts
        ]

    @property
    def longest(self) -> int:
        """The maximum number of tokens of a prompt and its answer."""
        return max((len(p.tokens) + p.max_tokens for p in self._flat), default=0)

    def digests(self) -> dict[str, str]:
        """Return, by task, the number of questions and a hash of them and their prompts."""
        texts = {}
        for task, prompts_Q in zip(self.tasks, self._prompts, strict=True):
            digest = hashlib.blake2b(digest_size=6)
            for question, prompts in zip(task.questions, prompts_Q, strict=True):
                digest.update(repr((question.key, prompts)).encode())
            texts[task.name] = f"{len(prompts_Q)} ({digest.hexdigest()})"
        return texts

    def evaluate(self, engine: Engine, samples: Mapping[str, Sample] | None = None) -> Scores:
        """Return the scores of the merge that is loaded in the engine.

        `samples` maps the names of tasks to a sample; all questions of other tasks are asked.
        Raises EngineError, ScorerError if a task's own code fails, and TaskError if a task does
        not compute the metric that the study uses.
        """
        samples_T = [(samples or {}).get(task.name) for task in self.tasks]
        indices_T = [
            range(len(prompts_Q)) if sample is None else sample.asked_S.tolist()
            for sample, prompts_Q in zip(samples_T, self._prompts, strict=True)
        ]
        asked = self._flat
        if samples:
            pairs = zip(self._prompts, indices_T, strict=True)
            asked = [p for prompts_Q, indices in pairs for q in indices for p in prompts_Q[q]]
        answers = iter(engine.answer(asked))
        tasks = {}
        for task, prompts_Q, indices, sample in zip(
            self.tasks, self._prompts, indices_T, samples_T, strict=True
        ):
            by_index = {q: tuple(itertools.islice(answers, len(prompts_Q[q]))) for q in indices}
            answers_Q = tuple(by_index.get(q, ()) for q in range(len(prompts_Q)))
            if isinstance(task, WholeTask):
                tasks[task.name] = _score_whole(task, prompts_Q, answers_Q)
            else:
                tasks[task.name] = self._score(task, prompts_Q, answers_Q, sample)
        return Scores(tasks)

    def _score(
        self,
        task: Task,
        prompts_Q: Sequence[tuple[Prompt, ...]],
        answers_Q: tuple[tuple[Answer, ...], ...],
        sample: Sample | None,
    ) -> TaskScores:
        worst = 0.0 if task.weight >= 0 else 1.0
        scores, soft, non_finite, cut_off = [], [], 0, 0
        for question, prompts, answers in zip(task.questions, prompts_Q, answers_Q, strict=True):
            if not answers:
                scores.append(math.nan)
                soft.append(math.nan)
                continue
            if not all(answer.finite for answer in answers):
                scores.append(worst)
                soft.append(worst)
                non_finite += 1
                continue
            scores.append(task.score(question, prompts, answers, self.tokenizer))
            soft.append(task.soft(question, prompts, answers))
            cut_off += task.is_cut_off(answers, self.tokenizer)
        return TaskScores(
            task.weight, _floats(scores), _floats(soft), non_finite, cut_off, answers_Q, sample
        )


def _score_whole(
    task: WholeTask,
    prompts_Q: Sequence[tuple[Prompt, ...]],
    answers_Q: tuple[tuple[Answer, ...], ...],
) -> TaskScores:
    scores_Q = _floats(task.scores(answers_Q))
    non_finite = sum(not all(answer.finite for answer in answers) for answers in answers_Q)
    cut_off = sum(
        any(a.truncated and p.max_tokens > 1 for p, a in zip(prompts, answers, strict=True))
        for prompts, answers in zip(prompts_Q, answers_Q, strict=True)
    )
    return TaskScores(task.weight, scores_Q, scores_Q, non_finite, cut_off, answers_Q)


def finite_or_none(error: float) -> float | None:
    """Return the error; None if it is infinite or NaN, which JSON does not have."""
    return error if math.isfinite(error) else None


def shorten(text: str) -> str:
    """Return the beginning of a text on one line, in quotes."""
    return repr(" ".join(text.split())[:_MAX_SHOWN_LENGTH])


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float32)
