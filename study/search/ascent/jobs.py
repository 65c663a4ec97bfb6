"""The remaining work of a study that searches by gradient: baselines, the steps and checkpoints of
each ascent, and the final merges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.trials import KIND, RESULT, TrialRecord
from study.search.genome import MergeGenome
from study.search.jobs import ROLE, Job, Jobs
from study.search.state import AFTER, ASCENT, CANDIDATE, SearchState, Slot

from .replay import AscentReplay

ASCENT_SCHEME = "adam 1, batches 1"
"""Part of a study's fingerprint. Change it whenever the same study would take other steps."""
STEPS = "steps"
"""The attribute of a checkpoint: the number of steps that led to it."""
CHECKPOINT, LAST_STEPS = "best checkpoint", "mean of the last steps"
"""The roles of the final merges."""
VALIDATION_LOSS = "kept_out_loss"
"""The key of the validation loss in a checkpoint's result. Its text is that of stored studies."""
CHECKPOINT_INTERVAL = 4
"""The number of steps between two checkpoints."""
_PATIENCE = 6
"""The number of checkpoints without a lower loss after which an ascent ends early."""
LAST_SHARE = 0.25
"""The fraction of an ascent, at its end, over which its points are averaged."""


@dataclass(frozen=True)
class StepJob(Job):
    """A step of an ascent: the gradient of a batch's loss at `params`."""

    slot: Slot = field(default_factory=lambda: Slot(0, 0))


@dataclass(frozen=True)
class CheckpointJob(Job):
    """A point of an ascent, to be scored on the validation questions."""


class AscentJobs(Jobs):
    """The work of a study with at most `budget` steps, divided among its ascents as equally as
    possible."""

    def __init__(self, genome: MergeGenome, replay: AscentReplay, budget: int) -> None:
        super().__init__(genome, replay, budget)
        self._ascents = replay.population
        share, more = divmod(budget if genome.space else 0, self._ascents)
        self._steps = [
            min(replay.steps, share + (ascent < more)) for ascent in range(self._ascents)
        ]

    def searched(self, records: Sequence[TrialRecord]) -> bool:
        """Return whether all baselines are scored and every ascent has ended."""
        state = self.state(records)
        losses = _checkpoint_losses(records)
        return all(b.name in state.complete for b in self._baselines) and all(
            self._next_of(ascent, state, losses) is None for ascent in range(self._ascents)
        )

    def next(self, records: Sequence[TrialRecord], turn: int = 0) -> Job | None:
        """Return a job that no worker has started, or None if there is none at present.

        `turn` selects another one after each job that another worker has started first.
        """
        state = self.state(records)
        if (job := self._baseline_job(state, turn)) is not None:
            return job
        taken = state.complete | state.begun
        losses = _checkpoint_losses(records)
        jobs = [self._next_of(ascent, state, losses) for ascent in range(self._ascents)]
        free = [
            job
            for job in jobs
            if job is not None
            and job.key not in taken
            and not (isinstance(job, StepJob) and job.slot in state.running)
        ]
        if free:
            return free[turn % len(free)]
        return self.next_final_job(records, turn) if self.searched(records) else None

    def idle_job(self, records: Sequence[TrialRecord]) -> Job | None:
        """Return None: a search by gradient has no jobs for idle workers."""
        return None

    def final_jobs(self, records: Sequence[TrialRecord]) -> list[Job]:
        """Return the final merges: the checkpoint with the lowest validation loss, and the mean of
        the last points of its ascent.

        Empty before the first checkpoint, or if the final merges of a longer search are scored.
        """
        state, losses = self.state(records), _checkpoint_losses(records)
        after = sum(self._finished_steps(ascent, state) for ascent in range(self._ascents))
        if not losses or any(r.attributes.get(AFTER, 0) > after for r in records if r.complete):
            return []
        steps, ascent = min(losses, key=lambda place: (losses[place], place))
        best = self._replay.propose(Slot(steps, ascent), state.finished)
        last = max(s for s, a in losses if a == ascent)
        first = last - max(1, math.floor(LAST_SHARE * last)) + 1
        points = [
            self._replay.propose(Slot(step, ascent), state.finished)
            for step in range(first, last + 1)
        ]
        mean = {name: math.fsum(p[name] for p in points) / len(points) for name in best}
        return [
            self._merge(CHECKPOINT, f"{CHECKPOINT} of {after} steps", best, after),
            self._merge(LAST_STEPS, f"{LAST_STEPS} of {after} steps", mean, after),
        ]

    def _merge(self, role: str, name: str, params: Mapping[str, float], after: int) -> Job:
        attributes = {CANDIDATE: name, KIND: CANDIDATE, ROLE: role, AFTER: after}
        return Job(name, params, self._genome.recipe(params), attributes)

    def _next_of(
        self, ascent: int, state: SearchState, losses: Mapping[tuple[int, int], float]
    ) -> Job | None:
        """Return the next job of an ascent; None if the ascent has ended."""
        taken = self._finished_steps(ascent, state)
        ends = taken == self._steps[ascent]
        is_due = taken > 0 and (taken % CHECKPOINT_INTERVAL == 0 or ends)
        if is_due and (taken, ascent) not in losses:
            return self._checkpoint_job(taken, ascent, state)
        if ends or _has_converged(ascent, losses):
            return None
        slot = Slot(taken, ascent)
        params = self._replay.propose(slot, state.finished)
        return StepJob(slot.name, params, self._genome.recipe(params), slot.attributes, slot=slot)

    def _checkpoint_job(self, steps: int, ascent: int, state: SearchState) -> Job:
        params = self._replay.propose(Slot(steps, ascent), state.finished)
        name = f"checkpoint after step {steps} of ascent {ascent}"
        attributes = {CANDIDATE: name, KIND: CANDIDATE, ASCENT: ascent, STEPS: steps}
        return CheckpointJob(name, params, self._genome.recipe(params), attributes)

    def _finished_steps(self, ascent: int, state: SearchState) -> int:
        """Return the number of steps before the first unfinished one, within the budget."""
        for step in range(self._steps[ascent]):
            if Slot(step, ascent) not in state.finished:
                return step
        return self._steps[ascent]


def checkpoints(records: Sequence[TrialRecord]) -> dict[tuple[int, int], TrialRecord]:
    """Return the complete checkpoints, by their number of steps and their ascent."""
    by_place: dict[tuple[int, int], TrialRecord] = {}
    for record in records:
        if record.complete and ASCENT in record.attributes:
            by_place.setdefault((record.attributes[STEPS], record.attributes[ASCENT]), record)
    return by_place


def validation_loss(checkpoint: TrialRecord) -> float:
    """Return the validation loss of a checkpoint."""
    return float(checkpoint.attributes[RESULT][VALIDATION_LOSS])


def _checkpoint_losses(records: Sequence[TrialRecord]) -> dict[tuple[int, int], float]:
    return {place: validation_loss(record) for place, record in checkpoints(records).items()}


def _has_converged(ascent: int, losses: Mapping[tuple[int, int], float]) -> bool:
    """Return whether the last checkpoints of an ascent do not improve on the best earlier one.

    Only those at the interval count: a budget that was increased later has left others.
    """
    of_ascent = [
        losses[steps, number]
        for steps, number in sorted(losses)
        if number == ascent and steps % CHECKPOINT_INTERVAL == 0
    ]
    if len(of_ascent) <= _PATIENCE:
        return False
    return min(of_ascent[-_PATIENCE:]) >= min(of_ascent[:-_PATIENCE])
