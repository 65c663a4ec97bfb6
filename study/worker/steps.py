"""Take the steps of a search by gradient, and compute the loss of its checkpoints.

T: tasks, Q: questions of one task.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Example, Loss
from objectives.merge.recipe import MergeRecipe
from objectives.scoring import QuestionSet
from objectives.tasks.examples import examples, question_shares, validation_split
from storage.gradients import StoredGradient
from study.search.ascent.batches import Batches, Item
from study.search.ascent.chain_rule import genome_gradient
from study.search.ascent.jobs import StepJob
from study.search.genome import MergeGenome
from study.search.rules import SearchRules

log = logging.getLogger(__name__)

_SEED_DIFFERENCE = 1_000_003
"""The difference between the seeds of two consecutive ascents of a study."""


@dataclass(frozen=True)
class StepResult:
    """The stored result of a step."""

    probability: float
    """The weighted sum over tasks of the mean probability of right answers in the batch."""
    tasks: Mapping[str, float]
    """The mean probability of right answers in the batch, by task."""
    loss: float
    """The weighted sum of the batch's losses; `gradient` is its derivative."""
    asked: int
    gradient: StoredGradient


class StepTaker:
    """Computes gradients at points of an ascent.

    The batch of a step depends only on the questions, the seed, the step and the ascent.
    """

    def __init__(self, engine: GradientEngine, rules: SearchRules) -> None:
        self._engine, self._rules = engine, rules
        self._search = rules.config.search
        self._loss = Loss(self._search.loss, self._search.loss_q)

    def take(self, job: StepJob) -> StepResult:
        """Return the result of a step. Raises EngineError, and TaskError if a task has no text to
        learn from."""
        batch = self._batches(job.slot.number).at(job.slot.generation)
        batch_examples = [self._examples[item.task][item.question] for item in batch]
        weights = [item.weight for item in batch]
        genome = self._rules.genome
        assert isinstance(genome, MergeGenome)
        assert isinstance(job.recipe, MergeRecipe)
        step = self._engine.step(job.recipe, batch_examples, weights, self._loss)
        recipe_gradient = step.gradient
        gradient = _finite(
            genome_gradient(
                genome,
                job.params,
                recipe_gradient.values,
                recipe_gradient.shared,
                recipe_gradient.scale,
            )
        )
        tasks = self._means(batch, step.probabilities_Q)
        return StepResult(
            math.fsum(task.weight * tasks[task.name] for task in self._rules.questions.tasks),
            tasks,
            math.fsum(w * loss for w, loss in zip(weights, step.losses_Q, strict=True)),
            len(batch),
            StoredGradient(job.slot.generation, job.slot.number, gradient),
        )

    def validation_loss(self) -> float:
        """Return the loss of the loaded merge on the questions that no batch contains."""
        flat = [example for examples_Q in self._validation_examples for example in examples_Q]
        shares = [
            share
            for shares_Q in question_shares(self._validation_questions.tasks)
            for share in shares_Q
        ]
        losses = self._engine.losses(flat, self._loss)
        return math.fsum(share * loss for share, loss in zip(shares, losses, strict=True))

    def _means(self, batch: Sequence[Item], probabilities: Sequence[float]) -> dict[str, float]:
        """Return the mean probability of right answers of each task in a batch."""
        tasks = self._rules.questions.tasks
        by_task: list[list[float]] = [[] for _ in tasks]
        for item, probability in zip(batch, probabilities, strict=True):
            by_task[item.task].append(probability)
        return {
            task.name: math.fsum(values) / len(values) if values else 0.0
            for task, values in zip(tasks, by_task, strict=True)
        }

    def _batches(self, ascent: int) -> Batches:
        seed = self._rules.config.study.seed + ascent * _SEED_DIFFERENCE
        ids_TQ = [
            [question.id for question in task.questions] for task in self._batch_questions.tasks
        ]
        return Batches(
            ids_TQ, question_shares(self._batch_questions.tasks), self._rules.batch, seed
        )

    @cached_property
    def _parts(self) -> tuple[QuestionSet, QuestionSet]:
        """The questions of the batches, and those for validation."""
        questions = self._rules.questions
        pairs = [
            validation_split(task.questions, self._search.validation) for task in questions.tasks
        ]
        in_batches, outside = (
            [t.with_questions(p[n]) for t, p in zip(questions.tasks, pairs, strict=True) if p[n]]
            for n in (0, 1)
        )
        return QuestionSet(in_batches, questions.tokenizer), QuestionSet(
            outside, questions.tokenizer
        )

    @property
    def _batch_questions(self) -> QuestionSet:
        return self._parts[0]

    @property
    def _validation_questions(self) -> QuestionSet:
        return self._parts[1]

    @cached_property
    def _examples(self) -> list[list[Example]]:
        return _examples_of(self._batch_questions)

    @cached_property
    def _validation_examples(self) -> list[list[Example]]:
        return _examples_of(self._validation_questions)


def _finite(gradient: Mapping[str, float]) -> dict[str, float]:
    """Return the gradient with 0 in place of derivatives that are not finite."""
    non_finite = [name for name, value in gradient.items() if not math.isfinite(value)]
    if non_finite:
        log.warning(
            "%d of %d derivatives are NaN or infinite and are set to 0; the first is that of %s",
            *(len(non_finite), len(gradient), non_finite[0]),
        )
    return {name: value if math.isfinite(value) else 0.0 for name, value in gradient.items()}


def _examples_of(questions: QuestionSet) -> list[list[Example]]:
    pairs = zip(questions.tasks, questions.prompts_of_tasks, strict=True)
    return [examples(task, prompts_Q, questions.tokenizer) for task, prompts_Q in pairs]
