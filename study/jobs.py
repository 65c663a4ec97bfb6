"""What there is to do in a study: baselines, places of the search, work for idle workers, and in
the end the merges that the whole search comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectives.merge.recipe import MergeRecipe
from storage.trials import BASELINE, GENERATION, KIND, SLOT, TrialRecord

from .genome import Genome
from .sampler import Place, Replay, generation_of, places_of

CANDIDATE = "candidate"
"""The attribute that names a merge which is scored beside the search."""
ROLE, AFTER = "role", "after"
"""Attributes of the merges a search comes to: what each is, and after how many search trials."""
TOP, MEAN = "mean of the top", "CMA mean"
_TOP = 20


@dataclass(frozen=True)
class Job:
    """A merge to score; `what` names it among the study's claims."""

    what: str
    params: Mapping[str, float]
    recipe: MergeRecipe
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """The work of a study of `budget` search trials."""

    def __init__(self, genome: Genome, replay: Replay, budget: int) -> None:
        self._genome, self._replay, self._budget = genome, replay, budget

    def done(self, records: Sequence[TrialRecord]) -> bool:
        """Whether every baseline, every place of the budget and every merge that the search comes
        to is finished."""
        if not self.searched(records):
            return False
        complete = {r.attributes.get(CANDIDATE) for r in records if r.complete}
        return all(job.what in complete for job in self.conclusions(records))

    def searched(self, records: Sequence[TrialRecord]) -> bool:
        """Whether every baseline and every place of the budget is finished."""
        complete = {r.baseline for r in records if r.complete}
        finished, _ = places_of(records)
        return all(b.name in complete for b in self._genome.baselines()) and all(
            self._replay.place_at(index) in finished for index in range(self._budget)
        )

    def conclusions(self, records: Sequence[TrialRecord]) -> list[Job]:
        """The merges that the search comes to, as far as the budget's places are finished without
        a gap: the mean of the best trials, and the mean of CMA-ES's distribution.

        They are functions of those places alone, so any number of workers makes the same. None
        where those of a longer search are scored.
        """
        finished, _ = places_of(records)
        free = (i for i in range(self._budget) if self._replay.place_at(i) not in finished)
        after = next(free, self._budget)
        if not after or any(r.attributes.get(AFTER, 0) > after for r in records if r.complete):
            return []
        whole = {p: finished[p] for p in map(self._replay.place_at, range(after))}
        count = top_count(after)
        found = [(f"{TOP} {count}", f"{TOP} {count} of {after} search trials", _top(whole, count))]
        if generation := after // self._replay.population:
            mean = self._replay.mean(generation, whole)
            found.append((MEAN, f"{MEAN} after {after} search trials", mean))
        return [
            Job(
                name,
                params,
                self._genome.recipe(params),
                {CANDIDATE: name, KIND: CANDIDATE, ROLE: role, AFTER: after},
            )
            for role, name, params in found
        ]

    def concluding(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """One of `conclusions` that nobody has; None where there is none left to begin."""
        has = {r.attributes.get(CANDIDATE) for r in records if r.under_way}
        free = [job for job in self.conclusions(records) if job.what not in has]
        return free[turn % len(free)] if free else None

    def next(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """The first piece of work that nobody has; with `turn`, one so many further on.

        None while others are at all that can be begun.
        """
        has = {r.baseline for r in records if r.under_way}
        baselines = [b for b in self._genome.baselines() if b.name not in has]
        if baselines:
            b = baselines[turn % len(baselines)]
            attributes = {BASELINE: b.name, KIND: b.kind}
            return Job(f"baseline {b.name}", b.params, b.recipe, attributes)
        finished, taken = places_of(records)
        free = [
            place
            for place in self._replay.free_places(taken, finished)
            if place.generation * self._replay.population + place.slot < self._budget
        ]
        if free:
            return self._place(free[turn % len(free)], finished)
        return self.concluding(records, turn) if self.searched(records) else None

    def aside(self, records: Sequence[TrialRecord]) -> Job | None:
        """A merge worth scoring while a generation's last places are run by others."""
        finished, _ = places_of(records)
        generation = generation_of(finished, self._replay.population)
        if generation == 0 or self.searched(records):
            return None
        earlier = {p: f for p, f in finished.items() if p.generation < generation}
        count = top_count(len(earlier))
        has = {r.attributes.get(CANDIDATE) for r in records if r.under_way}
        for name, params in (
            (f"CMA mean before generation {generation}", self._replay.mean(generation, finished)),
            (f"mean of the top {count} before generation {generation}", _top(earlier, count)),
        ):
            if name not in has:
                recipe = self._genome.recipe(params)
                return Job(name, params, recipe, {CANDIDATE: name, KIND: CANDIDATE})
        return None

    def _place(
        self, place: Place, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> Job:
        params = self._replay.propose(place, finished)
        attributes = {GENERATION: place.generation, SLOT: place.slot}
        return Job(place_name(place), params, self._genome.recipe(params), attributes)


def place_name(place: Place) -> str:
    return f"generation {place.generation} slot {place.slot}"


def top_count(trials: int) -> int:
    """How many of so many search trials are the top: 20, or a quarter."""
    return min(_TOP, max(1, trials // 4))


def held_out_name(number: int) -> str:
    return f"held-out questions of trial {number}"


def _top(
    finished: Mapping[Place, tuple[Mapping[str, float], float]], count: int
) -> dict[str, float]:
    """The mean of the best trials' parameters, the earlier of equals."""
    ranked = sorted(finished.items(), key=lambda item: (-item[1][1], item[0]))[:count]
    names = ranked[0][1][0]
    return {name: sum(params[name] for _, (params, _) in ranked) / len(ranked) for name in names}
