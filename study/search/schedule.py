"""Selects the search questions of each generation, based on the scores of earlier trials.

Most questions get the same score from all merges of a generation and do not help to rank them. All
trials of a generation are asked the same sample. Its inclusion probabilities are higher for
questions whose scores vary and for short ones, and positive for every question, so that questions
that begin to vary are detected. The samples depend only on the seed, the baselines
and the trials of earlier generations, not on interruptions or the number of workers.

Q: questions of a task, T: trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.sampling import Floats, Sample, draw, inclusion_probabilities
from objectives.scoring import QuestionSet
from objectives.tasks.task import WholeTask
from storage.scores import SEARCH, ScoreStore, StoredScores
from storage.trials import TrialRecord

from .state import slot_of

SCHEME = "varying first"
"""Part of a study's fingerprint. Change it whenever the same trials would yield other samples."""
_LATEST_WEIGHT = 0.5
"""The weight of the latest generation in the estimate of a question's variance."""
_SMOOTHING = 0.1
"""The fraction of a task's mean variance that is added to the variance of each of its questions."""
_MIN_QUESTIONS = 8
"""The minimum expected sample size of a task; all questions of a smaller task are asked."""


@dataclass
class _Estimate:
    """The estimates for a task's questions from earlier trials."""

    expected_Q: Floats
    expected_soft_Q: Floats
    variance_Q: Floats
    """The variance of each question's ranked value among the trials of a generation, averaged over
    generations with more weight on recent ones."""


class Schedule:
    """Samples of the search questions, generation by generation."""

    def __init__(
        self, questions: QuestionSet, answers: ScoreStore, share: float, soft: float, seed: int
    ) -> None:
        """`share` is the cost of a sample in tokens, relative to that of all questions; `soft` is
        the weight of the probability of a right answer in the objective."""
        self._answers, self._seed = answers, seed
        self._share, self._soft = share, soft
        pairs = [
            (task, np.array(costs, dtype=np.float64))
            for task, costs in zip(questions.tasks, questions.costs, strict=True)
            if not isinstance(task, WholeTask)
        ]
        self._tasks, self._costs = [task for task, _ in pairs], [costs for _, costs in pairs]
        self._generation = -1
        self._estimates: list[_Estimate] = []
        self._samples: dict[str, Sample] = {}

    def samples(self, generation: int, records: Sequence[TrialRecord]) -> dict[str, Sample]:
        """Return the samples by task. Tasks that score their answers together have none, because
        they are asked all questions. All baselines and earlier generations must be complete."""
        if generation < self._generation or self._generation < 0:
            self._begin(records)
        while self._generation < generation:
            self._update(self._of_generation(self._generation, records))
            self._generation += 1
            self._samples = {}
        if not self._samples:
            self._samples = self._draw(generation)
        return self._samples

    def _begin(self, records: Sequence[TrialRecord]) -> None:
        """Reset the estimates to those from the baselines, which the first generation uses."""
        baselines = [r for r in records if r.complete and r.baseline is not None]
        self._estimates, self._samples, self._generation = [], {}, 0
        self._update(sorted(baselines, key=lambda r: r.baseline or ""))

    def _of_generation(self, generation: int, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the complete trials of a generation in slot order: the first one of each slot."""
        by_slot: dict[int, TrialRecord] = {}
        for record in records:
            slot = slot_of(record)
            if record.complete and slot is not None and slot.generation == generation:
                by_slot.setdefault(slot.number, record)
        return [by_slot[number] for number in sorted(by_slot)]

    def _update(self, records: Sequence[TrialRecord]) -> None:
        stored = self._answers.read_many([r.id for r in records], SEARCH)
        by_task = [[stored[r.id][task.name] for r in records] for task in self._tasks]
        new_estimates = [self._estimate(answers_T) for answers_T in by_task]
        if not self._estimates:
            self._estimates = new_estimates
            return
        for old, new in zip(self._estimates, new_estimates, strict=True):
            asked_Q = np.isfinite(new.variance_Q)
            mixed_Q = _LATEST_WEIGHT * new.variance_Q + (1 - _LATEST_WEIGHT) * old.variance_Q
            old.variance_Q = np.where(asked_Q, mixed_Q, old.variance_Q)
            old.expected_Q = np.where(asked_Q, new.expected_Q, old.expected_Q)
            old.expected_soft_Q = np.where(asked_Q, new.expected_soft_Q, old.expected_soft_Q)

    def _estimate(self, answers_T: Sequence[StoredScores]) -> _Estimate:
        right_TQ = np.array([a.scores_Q for a in answers_T], dtype=np.float64)
        soft_TQ = np.array([a.soft_Q for a in answers_T], dtype=np.float64)
        ranked_TQ = self._soft * soft_TQ + (1 - self._soft) * right_TQ
        return _Estimate(right_TQ.mean(axis=0), soft_TQ.mean(axis=0), ranked_TQ.var(axis=0))

    def _draw(self, generation: int) -> dict[str, Sample]:
        probabilities = self._probabilities()
        samples = {}
        for number, (task, estimate) in enumerate(zip(self._tasks, self._estimates, strict=True)):
            seed = np.random.SeedSequence([self._seed, generation, number])
            asked = draw(probabilities[number], np.random.default_rng(seed))
            samples[task.name] = Sample(
                asked, probabilities[number][asked], estimate.expected_Q, estimate.expected_soft_Q
            )
        return samples

    def _probabilities(self) -> list[Floats]:
        """Return the inclusion probabilities of each task's questions. The error of the weighted
        score is smallest, at a fixed cost, if they are proportional to weight x standard deviation
        / sqrt(cost) (Cochran 1977, 5.5)."""
        importance = [
            abs(task.weight)
            / len(estimate.variance_Q)
            * np.sqrt(_smoothed(estimate.variance_Q) / costs)
            for task, estimate, costs in zip(self._tasks, self._estimates, self._costs, strict=True)
        ]
        costs = np.concatenate(self._costs)
        pooled = inclusion_probabilities(
            np.concatenate(importance), costs, self._share * float(costs.sum())
        )
        ends = np.cumsum([len(c) for c in self._costs])[:-1]
        return [
            own
            if own.sum() >= (least := min(_MIN_QUESTIONS, len(own)))
            else inclusion_probabilities(weights, np.ones(len(own)), least)
            for own, weights in zip(np.split(pooled, ends), importance, strict=True)
        ]


def _smoothed(variance_Q: Floats) -> NDArray[np.float64]:
    mean = float(variance_Q.mean())
    return variance_Q + (_SMOOTHING * mean if mean > 0 else 1.0)
