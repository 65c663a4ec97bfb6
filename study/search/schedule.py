"""Which questions the trials of a generation are asked, from what earlier trials answered.

Most questions are answered alike by all merges of a generation and tell nothing about which is
better. All trials of a generation are asked the same sample, drawn in favour of questions whose
outcome varies and of short ones; every question keeps a chance, so that one that starts to vary is
noticed. What is asked is a function of the seed and of the trials before, so neither an
interruption nor the number of workers changes it.

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
"""Changes whenever the same trials give other samples."""
_NEWS = 0.5
"""Share of a generation in what is known of a question's variance; the rest is from before."""
_FLOOR = 0.1
"""Added to every variance, as a share of their mean."""
_FEWEST = 8
"""Questions of each task, or all where it has fewer."""


@dataclass
class _Known:
    """What earlier trials tell of a task's questions."""

    expected_Q: Floats
    expected_soft_Q: Floats
    variance_Q: Floats
    """Of what the search ranks by, between the trials of a generation."""


class Schedule:
    """Samples of the search questions, generation by generation."""

    def __init__(
        self, exam: QuestionSet, answers: ScoreStore, share: float, soft: float, seed: int
    ) -> None:
        """`share` is of what asking all questions costs in tokens; `soft` is the share of the
        probability of a right answer in what the search ranks by."""
        self._answers, self._seed = answers, seed
        self._share, self._soft = share, soft
        pairs = [
            (task, np.array(costs, dtype=np.float64))
            for task, costs in zip(exam.tasks, exam.costs, strict=True)
            if not isinstance(task, WholeTask)
        ]
        self._tasks, self._costs = [task for task, _ in pairs], [costs for _, costs in pairs]
        self._generation = -1
        self._known: list[_Known] = []
        self._samples: dict[str, Sample] = {}

    def samples(self, generation: int, records: Sequence[TrialRecord]) -> dict[str, Sample]:
        """Each task's sample, by its name; a task that scores its answers together has none and is
        asked all. Needs every baseline and all trials of the generations before to be complete."""
        if generation < self._generation or self._generation < 0:
            self._begin(records)
        while self._generation < generation:
            self._learn(self._of_generation(self._generation, records))
            self._generation += 1
            self._samples = {}
        if not self._samples:
            self._samples = self._drawn(generation)
        return self._samples

    def _begin(self, records: Sequence[TrialRecord]) -> None:
        """The baselines tell what the first generation is asked."""
        baselines = [r for r in records if r.complete and r.baseline is not None]
        self._known, self._samples, self._generation = [], {}, 0
        self._learn(sorted(baselines, key=lambda r: r.baseline or ""))

    def _of_generation(self, generation: int, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Its trials in the order of slots, the first of any two in one slot."""
        found: dict[int, TrialRecord] = {}
        for record in records:
            slot = slot_of(record)
            if record.complete and slot is not None and slot.generation == generation:
                found.setdefault(slot.number, record)
        return [found[number] for number in sorted(found)]

    def _learn(self, records: Sequence[TrialRecord]) -> None:
        stored = self._answers.read_many([r.id for r in records], SEARCH)
        by_task = [[stored[r.id][task.name] for r in records] for task in self._tasks]
        news = [self._news(answers_T) for answers_T in by_task]
        if not self._known:
            self._known = news
            return
        for known, new in zip(self._known, news, strict=True):
            asked_Q = np.isfinite(new.variance_Q)
            mixed_Q = _NEWS * new.variance_Q + (1 - _NEWS) * known.variance_Q
            known.variance_Q = np.where(asked_Q, mixed_Q, known.variance_Q)
            known.expected_Q = np.where(asked_Q, new.expected_Q, known.expected_Q)
            known.expected_soft_Q = np.where(asked_Q, new.expected_soft_Q, known.expected_soft_Q)

    def _news(self, answers_T: Sequence[StoredScores]) -> _Known:
        right_TQ = np.array([a.scores_Q for a in answers_T], dtype=np.float64)
        soft_TQ = np.array([a.soft_Q for a in answers_T], dtype=np.float64)
        ranked_TQ = self._soft * soft_TQ + (1 - self._soft) * right_TQ
        return _Known(right_TQ.mean(axis=0), soft_TQ.mean(axis=0), ranked_TQ.var(axis=0))

    def _drawn(self, generation: int) -> dict[str, Sample]:
        chances_ = self._chances()
        made = {}
        for number, (task, known) in enumerate(zip(self._tasks, self._known, strict=True)):
            seed = np.random.SeedSequence([self._seed, generation, number])
            asked = draw(chances_[number], np.random.default_rng(seed))
            made[task.name] = Sample(
                asked, chances_[number][asked], known.expected_Q, known.expected_soft_Q
            )
        return made

    def _chances(self) -> list[Floats]:
        """Of every task's questions: the best for the error of the weighted score at a given cost
        is in proportion to weight x standard deviation / sqrt(cost) (Cochran 1977, 5.5)."""
        importance = [
            abs(task.weight) / len(known.variance_Q) * np.sqrt(_lifted(known.variance_Q) / costs)
            for task, known, costs in zip(self._tasks, self._known, self._costs, strict=True)
        ]
        costs = np.concatenate(self._costs)
        pooled = inclusion_probabilities(
            np.concatenate(importance), costs, self._share * float(costs.sum())
        )
        ends = np.cumsum([len(c) for c in self._costs])[:-1]
        return [
            own
            if own.sum() >= (fewest := min(_FEWEST, len(own)))
            else inclusion_probabilities(weights, np.ones(len(own)), fewest)
            for own, weights in zip(np.split(pooled, ends), importance, strict=True)
        ]


def _lifted(variance_Q: Floats) -> NDArray[np.float64]:
    mean = float(variance_Q.mean())
    return variance_Q + (_FLOOR * mean if mean > 0 else 1.0)
