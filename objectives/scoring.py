"""Answers into scores: task means, the weighted objective, and its error.

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


@dataclass(frozen=True)
class TaskScores:
    """One trial's scores of one task, question by question, in the order of the questions."""

    weight: float
    scores_Q: Floats
    """How right each answer was, 0 to 1: what is reported and searched. Of a task that scores all
    its answers together, numbers with its score as their mean and its error as that of the mean."""
    soft_Q: Floats
    """The probability of a right answer, 0 to 1; the same as scores_Q where a task has none."""
    non_finite: int = 0
    """Questions in whose answers the model gave NaN or infinity; they count as the worst."""
    answers_Q: tuple[tuple[Answer, ...], ...] = field(default=(), compare=False, repr=False)
    """What the engine said to each question's prompts; empty where only scores were stored."""
    sample: Sample | None = None
    """Where not all questions were asked; the others have NaN for scores and no answers."""

    @cached_property
    def mean(self) -> float:
        if self.sample is not None:
            return self._estimate.mean
        return float(self.scores_Q.mean(dtype=np.float64))

    @cached_property
    def soft(self) -> float:
        if self.sample is not None:
            soft_S = self.soft_Q[self.sample.asked_S].astype(np.float64)
            return estimate(soft_S, self.sample.expected_soft_Q, self.sample).mean
        return float(self.soft_Q.mean(dtype=np.float64))

    @property
    def error(self) -> float:
        """The standard error of the mean over questions; infinite for a single question.

        Where not all were asked it holds both errors: of the questions asked for all of the
        task's, and of the task's for all that could be thought of.
        """
        if self.sample is not None:
            made = self._estimate
            return math.sqrt(made.sampling_variance + made.variance / len(self.scores_Q))
        if len(self.scores_Q) < 2:
            return math.inf
        return float(self.scores_Q.std(ddof=1, dtype=np.float64)) / math.sqrt(len(self.scores_Q))

    @property
    def sampling_error(self) -> float:
        """The standard error that comes of not asking all of the task's questions."""
        return 0.0 if self.sample is None else math.sqrt(self._estimate.sampling_variance)

    @cached_property
    def _estimate(self) -> Estimate:
        assert self.sample is not None
        right_S = self.scores_Q[self.sample.asked_S].astype(np.float64)
        return estimate(right_S, self.sample.expected_Q, self.sample)


@dataclass(frozen=True)
class Scores:
    """One trial's scores of every task."""

    tasks: Mapping[str, TaskScores]

    @property
    def value(self) -> float:
        """The objective: the weighted sum of the tasks' means, as in mergekit-evolve."""
        return sum(task.weight * task.mean for task in self.tasks.values())

    @property
    def soft(self) -> float:
        return sum(task.weight * task.soft for task in self.tasks.values())

    @property
    def error(self) -> float:
        """The standard error of the objective over questions."""
        return math.sqrt(sum((task.weight * task.error) ** 2 for task in self.tasks.values()))

    @property
    def sampling_error(self) -> float:
        """The part of the error that comes of not asking all of the search's questions."""
        return math.hypot(*(t.weight * t.sampling_error for t in self.tasks.values()))

    @property
    def asked(self) -> int:
        """Questions that were asked."""
        return sum(
            len(t.scores_Q) if t.sample is None else len(t.sample.asked_S)
            for t in self.tasks.values()
        )

    @property
    def non_finite(self) -> int:
        return sum(task.non_finite for task in self.tasks.values())


class Exam:
    """The questions of every task, tokenised once and asked as often as there are merges."""

    def __init__(
        self,
        tasks: Sequence[Task | WholeTask],
        tokenizer: Tokenizer,
        rows: int | None = None,
    ) -> None:
        """`rows` are those of the models' embedding; None if they are unknown.

        Raises TaskError if the prompts of a task do not suit the tokenizer, or have a token that
        the models have no row for.
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
                        f"{task.name}: the question {shortened(question.text)} needs the token "
                        f"{self.tokenizer.decode([token])!r}, number {token} in the tokenizer, and "
                        f"the models have rows for {rows} tokens only; take it out of question and "
                        "template, or give genome.tokenizer_source a model that has its row"
                    )

    @property
    def questions(self) -> int:
        return sum(map(len, self._prompts))

    @property
    def prompts_of_tasks(self) -> list[list[tuple[Prompt, ...]]]:
        """For each task the prompts of each question."""
        return self._prompts

    @property
    def prompts(self) -> dict[str, list[Prompt]]:
        """Each task's, by its name."""
        return {
            task.name: [p for prompts in prompts_Q for p in prompts]
            for task, prompts_Q in zip(self.tasks, self._prompts, strict=True)
        }

    @property
    def costs(self) -> list[list[int]]:
        """For each task what each question takes: the tokens that are its own, and its answer's."""
        return [
            [sum(len(p.tokens) - p.shared + p.max_tokens for p in prompts) for prompts in prompts_Q]
            for prompts_Q in self._prompts
        ]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max((len(p.tokens) + p.max_tokens for p in self._flat), default=0)

    def digests(self) -> dict[str, str]:
        """For each task the number of its questions and a hash of them and their prompts."""
        texts = {}
        for task, prompts in zip(self.tasks, self._prompts, strict=True):
            digest = hashlib.blake2b(digest_size=6)
            for question, asked in zip(task.questions, prompts, strict=True):
                digest.update(repr((question.key, asked)).encode())
            texts[task.name] = f"{len(prompts)} ({digest.hexdigest()})"
        return texts

    def ask(self, engine: Engine, samples: Mapping[str, Sample] | None = None) -> Scores:
        """Scores of the merge that the engine holds, from the `samples` of tasks by name and all
        questions of the others. Raises EngineError, ScorerError if a task's own code fails, and
        TaskError if it does not give what the study asks for."""
        drawn = [(samples or {}).get(task.name) for task in self.tasks]
        chosen = [
            range(len(prompts_Q)) if sample is None else sample.asked_S.tolist()
            for sample, prompts_Q in zip(drawn, self._prompts, strict=True)
        ]
        asked = self._flat
        if samples:
            pairs = zip(self._prompts, chosen, strict=True)
            asked = [p for prompts_Q, places in pairs for q in places for p in prompts_Q[q]]
        answers = iter(engine.answer(asked))
        tasks = {}
        for task, prompts_Q, places, sample in zip(
            self.tasks, self._prompts, chosen, drawn, strict=True
        ):
            said = {q: tuple(itertools.islice(answers, len(prompts_Q[q]))) for q in places}
            answers_Q = tuple(said.get(q, ()) for q in range(len(prompts_Q)))
            if isinstance(task, WholeTask):
                tasks[task.name] = _whole(task, answers_Q)
            else:
                tasks[task.name] = self._scored(task, prompts_Q, answers_Q, sample)
        return Scores(tasks)

    def _scored(
        self,
        task: Task,
        prompts_Q: Sequence[tuple[Prompt, ...]],
        answers_Q: tuple[tuple[Answer, ...], ...],
        sample: Sample | None,
    ) -> TaskScores:
        worst = 0.0 if task.weight >= 0 else 1.0
        right, soft, non_finite = [], [], 0
        for question, prompts, answers in zip(task.questions, prompts_Q, answers_Q, strict=True):
            if not answers:
                right.append(math.nan)
                soft.append(math.nan)
                continue
            if not all(answer.finite for answer in answers):
                right.append(worst)
                soft.append(worst)
                non_finite += 1
                continue
            right.append(task.score(question, prompts, answers, self.tokenizer))
            soft.append(task.soft(question, prompts, answers))
        return TaskScores(task.weight, _floats(right), _floats(soft), non_finite, answers_Q, sample)


def _whole(task: WholeTask, answers_Q: tuple[tuple[Answer, ...], ...]) -> TaskScores:
    scores_Q = _floats(task.rights(answers_Q))
    non_finite = sum(not all(answer.finite for answer in answers) for answers in answers_Q)
    return TaskScores(task.weight, scores_Q, scores_Q, non_finite, answers_Q)


def finite_or_none(error: float) -> float | None:
    """JSON has no infinity."""
    return error if math.isfinite(error) else None


def shortened(text: str) -> str:
    """The beginning of a text on one line, in quotes."""
    return repr(" ".join(text.split())[:60])


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float32)
