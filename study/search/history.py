"""The scores of a search over time, which are the data of all charts of the search."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from storage.trials import GENERATION, TrialRecord

from .state import slot_of

_BASELINES = ("base", "parent", "uniform")


@dataclass(frozen=True)
class BaselineScore:
    """The score of the base, of a parent or of a uniform merge."""

    kind: str
    name: str
    value: float


@dataclass(frozen=True)
class GenerationScores:
    """The finished trials of one generation."""

    generation: int
    best: float
    mean: float
    worst: float
    tasks: Mapping[str, float]
    """Mean score by task, without the tasks that no trial was asked."""


@dataclass(frozen=True)
class ScoreHistory:
    """The scores of the finished search trials, in the order of their slots."""

    values: Sequence[float]
    """The score of each trial."""
    generations: Sequence[int]
    """The generation of each trial."""
    tasks: Mapping[str, Sequence[float | None]]
    """The score of each trial by task; None if the trial was not asked the task."""
    baselines: Sequence[BaselineScore]

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Self:
        """Return the history of a study with these trials."""
        search = search_trials(records)
        names = dict.fromkeys(name for r in search for name in r.tasks)
        return cls(
            [r.value for r in search if r.value is not None],
            [r.attributes[GENERATION] for r in search],
            {name: [r.tasks.get(name) for r in search] for name in names},
            [
                BaselineScore(r.kind, str(r.baseline), r.value)
                for r in records
                if r.kind in _BASELINES and r.value is not None
            ],
        )

    def best_so_far(self) -> list[float]:
        """Return for each trial the highest score among it and the trials before it."""
        return list(itertools.accumulate(self.values, max))

    def levels(self) -> dict[str, float]:
        """Return the highest baseline of each kind: `base`, `best parent` and `best uniform`."""
        values = {kind: [b.value for b in self.baselines if b.kind == kind] for kind in _BASELINES}
        return {
            kind if kind == "base" else f"best {kind}": max(of_kind)
            for kind, of_kind in values.items()
            if of_kind
        }

    def by_generation(self) -> list[GenerationScores]:
        """Return the scores of each generation, the first generation first."""
        return [self._generation(generation) for generation in sorted(set(self.generations))]

    def _generation(self, generation: int) -> GenerationScores:
        indices = [i for i, of_trial in enumerate(self.generations) if of_trial == generation]
        values = [self.values[i] for i in indices]
        tasks = {
            task: [score for i in indices if (score := scores[i]) is not None]
            for task, scores in self.tasks.items()
        }
        return GenerationScores(
            generation,
            max(values),
            statistics.fmean(values),
            min(values),
            {task: statistics.fmean(scores) for task, scores in tasks.items() if scores},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the history as it is written to report.json."""
        return {
            "values": list(self.values),
            "generations": list(self.generations),
            "tasks": {task: list(scores) for task, scores in self.tasks.items()},
            "baselines": {
                f"parent {b.name}" if b.kind == "parent" else b.name: b.value
                for b in self.baselines
            },
        }


def search_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the finished search trials in the order of their slots."""
    slots = {
        r.id: slot for r in records if r.value is not None and (slot := slot_of(r)) is not None
    }
    return sorted((r for r in records if r.id in slots), key=lambda r: slots[r.id])
