"""What there is to do in a study: baselines, places of the search, work for idle workers, and in
the end the merges that the whole search comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectives.merge.recipe import MergeRecipe
from storage.trials import BASELINE, GENERATION, KIND, SLOT, TrialRecord
from study.setup.setup import Setup

from .genome import Genome
from .sampler import Replay
from .state import CANDIDATE, Place, Standing

ROLE, AFTER = "role", "after"
"""Attributes of the merges a search comes to: what each is, and after how many search trials."""
TOP, MEAN, BEST = "mean of the top", "CMA mean", "best trial"
_TOP = 20


@dataclass(frozen=True)
class Job:
    """A merge to score; `what` names it among the study's claims."""

    what: str
    params: Mapping[str, float]
    recipe: MergeRecipe
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """The work of a study of `budget` search trials; none where a method has nothing to search."""

    def __init__(self, genome: Genome, replay: Replay, budget: int, sampled: bool = False) -> None:
        """`sampled`: a trial is asked some questions, and the baselines tell first which ones."""
        self._genome, self._replay = genome, replay
        self._budget = budget if genome.space else 0
        self._sampled = sampled
        self._baselines = genome.baselines()
        self._standing = Standing(replay.population)

    def done(self, records: Sequence[TrialRecord]) -> bool:
        """Whether every baseline, every place of the budget and every merge that the search comes
        to is finished."""
        if not self.searched(records):
            return False
        complete = self._standing.complete
        return all(job.what in complete for job in self.conclusions(records))

    def searched(self, records: Sequence[TrialRecord]) -> bool:
        """Whether every baseline and every place of the budget is finished."""
        standing = self._seen(records)
        scored = all(b.name in standing.complete for b in self._baselines)
        return scored and standing.reached(self._budget)

    def generation(self, records: Sequence[TrialRecord]) -> int:
        """The one under way."""
        return self._seen(records).generation

    def conclusions(self, records: Sequence[TrialRecord]) -> list[Job]:
        """The merges that the search comes to, as far as the budget's places are finished without
        a gap: the mean of the best trials, and the mean of CMA-ES's distribution.

        They are functions of those places alone, so any number of workers makes the same. None
        where those of a longer search are scored.
        """
        whole = self._seen(records).without_gap(self._budget)
        after = len(whole)
        if not after or any(r.attributes.get(AFTER, 0) > after for r in records if r.complete):
            return []
        count = top_count(after)
        found = [(f"{TOP} {count}", f"{TOP} {count} of {after} search trials", _top(whole, count))]
        if generation := after // self._replay.population:
            mean = self._replay.mean(generation, whole)
            found.append((MEAN, f"{MEAN} after {after} search trials", mean))
        if self._sampled:  # the best trial was not asked all search questions
            found.append((BEST, f"{BEST} of {after} search trials", _top(whole, 1)))
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
        standing = self._seen(records)
        has = standing.complete | standing.begun
        free = [job for job in self.conclusions(records) if job.what not in has]
        return free[turn % len(free)] if free else None

    def next(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """The first piece of work that nobody has; with `turn`, one so many further on.

        None while others are at all that can be begun.
        """
        standing = self._seen(records)
        has = standing.complete | standing.begun
        baselines = [b for b in self._baselines if b.name not in has]
        if baselines:
            b = baselines[turn % len(baselines)]
            attributes = {BASELINE: b.name, KIND: b.kind}
            return Job(f"baseline {b.name}", b.params, b.recipe, attributes)
        if self._sampled and standing.begun & {b.name for b in self._baselines}:
            return None
        free = [
            place
            for place in standing.free_places()
            if place.generation * self._replay.population + place.slot < self._budget
        ]
        if free:
            return self._place(free[turn % len(free)], standing.finished)
        return self.concluding(records, turn) if self.searched(records) else None

    def aside(self, records: Sequence[TrialRecord]) -> Job | None:
        """A merge worth scoring while a generation's last places are run by others."""
        standing = self._seen(records)
        finished, generation = standing.finished, standing.generation
        if generation == 0 or self.searched(records):
            return None
        earlier = {p: f for p, f in finished.items() if p.generation < generation}
        count = top_count(len(earlier))
        has = standing.complete | standing.begun
        for name, params in (
            (f"CMA mean before generation {generation}", self._replay.mean(generation, finished)),
            (f"mean of the top {count} before generation {generation}", _top(earlier, count)),
        ):
            if name not in has:
                recipe = self._genome.recipe(params)
                return Job(name, params, recipe, {CANDIDATE: name, KIND: CANDIDATE})
        return None

    def _seen(self, records: Sequence[TrialRecord]) -> Standing:
        self._standing.see(records)
        return self._standing

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


def unscored(setup: Setup, records: Sequence[TrialRecord], replay: Replay) -> list[str]:
    """The merges that the search comes to by now and that are not scored: it has gone on since
    the last ones were, or none were."""
    jobs = Jobs(setup.genome, replay, setup.config.study.trials, setup.sampled)
    has = {r.attributes.get(CANDIDATE) for r in records if r.complete}
    return [job.what for job in jobs.conclusions(records) if job.what not in has]
