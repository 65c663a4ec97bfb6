"""The state of a search: finished and running slots, and the current generation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from storage.trials import BASELINE, GENERATION, RESULT, SLOT, TrialRecord

ASCENT = "ascent"
"""The attribute of a checkpoint: the ascent that it belongs to."""
LOSS = "loss"
"""The loss of a batch, in the result of a step of an ascent."""
CUT_OFF = "cut_off"
"""In the result of a trial: for each task with answers that reached max_tokens before they were
complete, the number of their questions and that of the questions asked."""
AFTER = "after"
"""The attribute of a final merge: the number of search trials before it."""
CANDIDATE = "candidate"
"""The attribute with the name of a merge that is scored but is no trial of the search."""


class Slot(NamedTuple):
    """The position of a trial in the search."""

    generation: int
    number: int

    @property
    def name(self) -> str:
        """The name under which a worker claims it."""
        return f"generation {self.generation} slot {self.number}"

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of its trial."""
        return {GENERATION: self.generation, SLOT: self.number}


class Evaluation(NamedTuple):
    """A finished trial of the search: its parameters and the objective that ranks it."""

    params: Mapping[str, float]
    objective: float


Evaluations = Mapping[Slot, Evaluation]


def seed_of(seed: int, slot: Slot) -> int:
    """Return 32 bits that differ between the slots of a study, up to chance."""
    return int(np.random.SeedSequence([seed, *slot]).generate_state(1)[0])


class SearchState:
    """Follows the trials of a study.

    The cost of an update depends on the number of changed trials, not on the size of the study.
    """

    def __init__(self, population: int = 0) -> None:
        """The current generation is computed only if the population is not 0."""
        self.population = population
        self._settled = 0
        """All trials before this index are finished and counted."""
        self.finished: dict[Slot, Evaluation] = {}
        """If a slot was evaluated twice, the first trial is used."""
        self.running: set[Slot] = set()
        self.complete: set[str] = set()
        """Names of the baselines and final merges that are scored."""
        self.begun: set[str] = set()
        """Names of those that are being scored."""
        self.generation = 0
        """The first generation with a slot that is not finished."""

    @classmethod
    def of(cls, records: Sequence[TrialRecord], population: int = 0) -> Self:
        """Return the state of a search with these trials, in the order of their creation."""
        state = cls(population)
        state.update(records)
        return state

    def update(self, records: Sequence[TrialRecord]) -> None:
        """Read all trials of the study, in the order of their creation."""
        self.running, self.begun = set(), set()
        all_settled = True
        for index in range(self._settled, len(records)):
            self._count(records[index])
            all_settled = all_settled and records[index].state.is_finished()
            if all_settled:
                self._settled = index + 1
        while self.population and all(slot in self.finished for slot in self._slots()):
            self.generation += 1

    def free_slots(self) -> list[Slot]:
        """Return the slots of the current generation that no trial has taken."""
        return [s for s in self._slots() if s not in self.finished and s not in self.running]

    def has_reached(self, budget: int) -> bool:
        """Return whether the first `budget` slots are finished."""
        missing = budget - self.generation * self.population
        slots = self._slots()[: max(0, missing)]
        return missing < self.population and all(slot in self.finished for slot in slots)

    def finished_prefix(self, budget: int) -> dict[Slot, Evaluation]:
        """Return the finished slots, in the order of the search, before the first one that is not
        finished; at most `budget` slots."""
        prefix: dict[Slot, Evaluation] = {}
        for index in range(budget):
            slot = Slot(*divmod(index, self.population))
            if slot not in self.finished:
                break
            prefix[slot] = self.finished[slot]
        return prefix

    def _count(self, record: TrialRecord) -> None:
        slot = slot_of(record)
        name = record.attributes.get(BASELINE) or record.attributes.get(CANDIDATE)
        if (objective := record.objective) is not None:
            if slot is not None:
                self.finished.setdefault(slot, Evaluation(record.params, objective))
            elif name is not None:
                self.complete.add(name)
        elif record.under_way:
            if slot is not None:
                self.running.add(slot)
            elif name is not None:
                self.begun.add(name)

    def _slots(self) -> list[Slot]:
        return [Slot(self.generation, number) for number in range(self.population)]


def slot_of(trial: TrialRecord) -> Slot | None:
    """Return the position of a trial in the search; None if it is not a trial of the search."""
    generation, number = trial.attributes.get(GENERATION), trial.attributes.get(SLOT)
    return None if generation is None or number is None else Slot(generation, number)


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the complete trial with the highest objective, or None.

    Among equal trials, baselines come first, then the order of the search. The trial number decides
    last, because it depends on which worker was faster.
    """
    scored = [(r, objective) for r in records if (objective := r.objective) is not None]
    highest = max((objective for _, objective in scored), default=None)
    return min((r for r, objective in scored if objective == highest), key=_order, default=None)


def best_search(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best trial of the search, or None. A step of an ascent is none: its score is that
    of one batch."""
    return best([r for r in records if r.kind == "search" and not is_step(r)])


def best_merge(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best merge, or None: of the search and of the uniform merges.

    Of a search by gradient it is a final merge: a step's score is that of one batch, and a
    checkpoint's that of the validation questions.
    """
    by_gradient = any(is_step(r) for r in records)
    return best([r for r in records if _is_merge(r) or (by_gradient and AFTER in r.attributes)])


def is_step(record: TrialRecord) -> bool:
    """Return whether the trial is a step of an ascent, whose score is that of one batch."""
    return LOSS in record.attributes.get(RESULT, {})


def _is_merge(record: TrialRecord) -> bool:
    if record.kind == "search":
        return not is_step(record)
    return record.kind == "uniform"


def _order(record: TrialRecord) -> tuple[bool, int, int, str, int]:
    generation, number = (int(record.attributes.get(name, 0)) for name in (GENERATION, SLOT))
    return record.kind == "search", generation, number, record.baseline or "", record.number
