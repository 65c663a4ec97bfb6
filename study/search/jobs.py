"""The remaining work of a study: baselines, slots of the search, work for idle workers, and the
final merges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectives.merge.recipe import Recipe
from storage.trials import BASELINE, KIND, TrialRecord

from .genome import Genome
from .sampler import Proposals
from .state import AFTER, CANDIDATE, Evaluations, SearchState, Slot

ROLE = "role"
"""The attribute that holds the role of a final merge."""
MEAN_OF_TOP, CMA_MEAN, BEST = "mean of the top", "CMA mean", "best trial"
_MAX_TOP = 20


@dataclass(frozen=True)
class Job:
    """A merge to score; `key` names it among the study's claims."""

    key: str
    params: Mapping[str, float]
    recipe: Recipe
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """The work of a study with `budget` search trials, or none if the space is empty."""

    def __init__(
        self, genome: Genome, replay: Proposals, budget: int, sampled: bool = False
    ) -> None:
        """If `sampled`, search trials are asked a sample of the questions, which depends on the
        scores of the baselines."""
        self._genome, self._replay = genome, replay
        self._budget = budget if genome.space else 0
        self._sampled = sampled
        self._baselines = genome.baselines()
        self._state = SearchState(replay.population)

    def done(self, records: Sequence[TrialRecord]) -> bool:
        """Return whether all baselines, all slots of the budget and all final merges are
        finished."""
        if not self.searched(records):
            return False
        complete = self._state.complete
        return all(job.key in complete for job in self.final_jobs(records))

    def searched(self, records: Sequence[TrialRecord]) -> bool:
        """Return whether all baselines and all slots of the budget are finished."""
        state = self.state(records)
        scored = all(b.name in state.complete for b in self._baselines)
        return scored and state.has_reached(self._budget)

    def state(self, records: Sequence[TrialRecord]) -> SearchState:
        """Return the state of the search."""
        self._state.update(records)
        return self._state

    def final_jobs(self, records: Sequence[TrialRecord]) -> list[Job]:
        """Return the final merges: the mean of the best trials, the mean of CMA-ES's distribution,
        and, if trials are asked a sample of the questions, the best trial again.

        They depend only on the finished slots before the first unfinished one, at most `budget` of
        them, so the number of workers does not matter. Returns an empty list if there are none, or
        if a final merge of a longer search is already scored.
        """
        finished = self.state(records).finished_prefix(self._budget)
        after = len(finished)
        if not after or any(r.attributes.get(AFTER, 0) > after for r in records if r.complete):
            return []
        return [
            self._final_job(role, finished)
            for role in final_roles(after, self._replay.population, self._sampled)
        ]

    def unscored(self, records: Sequence[TrialRecord]) -> list[str]:
        """Return the names of the final merges that are not scored yet."""
        scored = {r.attributes.get(CANDIDATE) for r in records if r.complete}
        return [job.key for job in self.final_jobs(records) if job.key not in scored]

    def next_final_job(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """Return one of the final jobs that no worker has started, or None."""
        state = self.state(records)
        taken = state.complete | state.begun
        free = [job for job in self.final_jobs(records) if job.key not in taken]
        return free[turn % len(free)] if free else None

    def next(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """Return a job that no worker has started, or None if there is none at present.

        Increase `turn` by one after each job that another worker claimed first, to get another one.
        """
        state = self.state(records)
        if (job := self._baseline_job(state, turn)) is not None:
            return job
        if self._sampled and state.begun & {b.name for b in self._baselines}:
            return None
        free = [
            slot
            for slot in state.free_slots()
            if slot.generation * self._replay.population + slot.number < self._budget
        ]
        if free:
            return self._slot_job(free[turn % len(free)], state.finished)
        return self.next_final_job(records, turn) if self.searched(records) else None

    def idle_job(self, records: Sequence[TrialRecord]) -> Job | None:
        """Return a merge worth scoring while other workers run the last slots of a generation."""
        state = self.state(records)
        finished, generation = state.finished, state.generation
        if generation == 0 or self.searched(records):
            return None
        earlier = {slot: e for slot, e in finished.items() if slot.generation < generation}
        count = top_count(len(earlier))
        taken = state.complete | state.begun
        for name, params in (
            (f"CMA mean before generation {generation}", self._replay.mean(generation, finished)),
            (
                f"mean of the top {count} before generation {generation}",
                self._mean_of_top(earlier, count),
            ),
        ):
            if name not in taken:
                recipe = self._genome.recipe(params)
                return Job(name, params, recipe, {CANDIDATE: name, KIND: CANDIDATE})
        return None

    def _final_job(self, role: str, finished: Evaluations) -> Job:
        after = len(finished)
        if role == CMA_MEAN:
            name = f"{CMA_MEAN} after {after} search trials"
            params = self._replay.mean(after // self._replay.population, finished)
        else:
            name = f"{role} of {after} search trials"
            params = self._mean_of_top(finished, 1 if role == BEST else top_count(after))
        attributes = {CANDIDATE: name, KIND: CANDIDATE, ROLE: role, AFTER: after}
        return Job(name, params, self._genome.recipe(params), attributes)

    def _baseline_job(self, state: SearchState, turn: int) -> Job | None:
        """Return one of the baselines that no worker has started, or None."""
        taken = state.complete | state.begun
        free = [b for b in self._baselines if b.name not in taken]
        if not free:
            return None
        b = free[turn % len(free)]
        attributes = {BASELINE: b.name, KIND: b.kind}
        return Job(f"baseline {b.name}", b.params, b.recipe, attributes)

    def _mean_of_top(self, finished: Evaluations, count: int) -> dict[str, float]:
        """Return the mean of the best trials; of equal trials the earlier one is used."""
        ranked = sorted(finished.items(), key=lambda item: (-item[1].objective, item[0]))[:count]
        return self._genome.mean([evaluation.params for _, evaluation in ranked])

    def _slot_job(self, slot: Slot, finished: Evaluations) -> Job:
        params = self._replay.propose(slot, finished)
        return Job(slot.name, params, self._genome.recipe(params), slot.attributes)


def final_roles(trials: int, population: int, sampled: bool) -> list[str]:
    """Return the roles of the final merges after a number of search trials: the mean of the best,
    the mean of CMA-ES's distribution once a generation is finished, and, if trials are asked a
    sample of the questions, the best trial again."""
    if not trials:
        return []
    roles = [f"{MEAN_OF_TOP} {top_count(trials)}"]
    roles += [CMA_MEAN] if trials >= population else []
    return [*roles, BEST] if sampled else roles


def top_count(trials: int) -> int:
    """Return the number of best trials that are averaged: a quarter of the trials, at most 20."""
    return min(_MAX_TOP, max(1, trials // 4))


def held_out_key(number: int) -> str:
    """Return the key of the claim on scoring a trial on the held-out questions."""
    return f"held-out questions of trial {number}"
