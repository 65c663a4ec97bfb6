"""Where a search stands: what is finished and what is being worked at, kept from look to look."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from storage.trials import BASELINE, GENERATION, SLOT, TrialRecord


class Place(NamedTuple):
    """Where in the search a trial stands."""

    generation: int
    slot: int


CANDIDATE = "candidate"
"""The attribute that names a merge which is scored beside the search."""


class Standing:
    """Follows a study's trials. A look costs what has changed since the last one, not the study."""

    def __init__(self, population: int) -> None:
        self._population = population
        self._settled = 0
        """The trials before this one are finished and counted."""
        self.finished: dict[Place, tuple[Mapping[str, float], float]] = {}
        """Places with parameters and objective; one that was somehow evaluated twice counts by its
        first trial."""
        self.running: set[Place] = set()
        self.complete: set[str] = set()
        """Names of baselines and candidates that are scored."""
        self.begun: set[str] = set()
        """Names of those that are being scored."""
        self.generation = 0
        """The first with a place that is not finished."""

    def see(self, records: Sequence[TrialRecord]) -> None:
        """Take note of all trials, given in the order of creation."""
        self.running, self.begun = set(), set()
        all_settled = True
        for index in range(self._settled, len(records)):
            self._count(records[index])
            all_settled = all_settled and records[index].state.is_finished()
            if all_settled:
                self._settled = index + 1
        while all(place in self.finished for place in self._places()):
            self.generation += 1

    def free_places(self) -> list[Place]:
        """The places of the generation under way that nobody has."""
        return [p for p in self._places() if p not in self.finished and p not in self.running]

    def reached(self, budget: int) -> bool:
        """Whether the first `budget` places are finished."""
        missing = budget - self.generation * self._population
        places = self._places()[: max(0, missing)]
        return missing < self._population and all(place in self.finished for place in places)

    def without_gap(self, budget: int) -> dict[Place, tuple[Mapping[str, float], float]]:
        """Of the first `budget` places the finished ones before the first that is not, in the
        order of the search."""
        whole: dict[Place, tuple[Mapping[str, float], float]] = {}
        for index in range(budget):
            place = Place(*divmod(index, self._population))
            if place not in self.finished:
                break
            whole[place] = self.finished[place]
        return whole

    def _count(self, record: TrialRecord) -> None:
        place = place_of(record)
        name = record.attributes.get(BASELINE) or record.attributes.get(CANDIDATE)
        if (objective := record.objective) is not None:
            if place is not None:
                self.finished.setdefault(place, (record.params, objective))
            elif name is not None:
                self.complete.add(name)
        elif record.under_way:
            if place is not None:
                self.running.add(place)
            elif name is not None:
                self.begun.add(name)

    def _places(self) -> list[Place]:
        return [Place(self.generation, slot) for slot in range(self._population)]


def places_of(
    records: Sequence[TrialRecord],
) -> tuple[dict[Place, tuple[Mapping[str, float], float]], set[Place]]:
    """Finished places with parameters and objective, and all places that are finished or running.

    A place that was somehow evaluated twice counts by its first trial.
    """
    finished: dict[Place, tuple[Mapping[str, float], float]] = {}
    taken = set()
    for trial in records:
        place = place_of(trial)
        if place is None:
            continue
        if trial.under_way:
            taken.add(place)
        if (objective := trial.objective) is not None:
            finished.setdefault(place, (trial.params, objective))
    return finished, taken


def place_of(trial: TrialRecord) -> Place | None:
    """Where in the search a trial stands; None for one that is beside it."""
    generation, slot = trial.attributes.get(GENERATION), trial.attributes.get(SLOT)
    return None if generation is None or slot is None else Place(generation, slot)


def generation_of(finished: Collection[Place], population: int) -> int:
    """The first generation with a place that is not finished."""
    generation = 0
    while all(Place(generation, slot) in finished for slot in range(population)):
        generation += 1
    return generation


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest objective; None without any.

    Of equals the one that is first in the search, after any baseline: trial numbers depend on
    which worker was faster.
    """
    scored = [(r, objective) for r in records if (objective := r.objective) is not None]
    highest = max((objective for _, objective in scored), default=None)
    return min((r for r, objective in scored if objective == highest), key=_order, default=None)


def _order(record: TrialRecord) -> tuple[bool, int, int, str, int]:
    generation, slot = (int(record.attributes.get(name, 0)) for name in (GENERATION, SLOT))
    return record.kind == "search", generation, slot, record.baseline or "", record.number


def best_search(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best trial of the search."""
    return best([r for r in records if r.kind == "search"])


def best_merge(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The merge with the highest value: of the search, or a uniform one that beats it."""
    return best([r for r in records if r.kind in ("search", "uniform")])
