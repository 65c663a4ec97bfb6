"""The loop of a worker: propose a merge, evaluate it, store its scores."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from objectives.engines.engine import Engine
from objectives.errors import EngineError, ScorerError, TaskError
from objectives.sampling import Sample
from storage.claims import Claims, ClaimTaken, TrialLost
from storage.heartbeat import Heartbeat
from storage.scores import ScoreStore
from storage.studies import store_budget
from storage.trials import GENERATION, TrialRecord, Trials, typical_seconds
from storage.workers import Workers
from study.cli.interrupts import Interrupts
from study.monitors.monitor import Monitor
from study.search.ascent.jobs import CheckpointJob
from study.search.ascent.validation import validation_samples
from study.search.jobs import Job, Jobs
from study.search.sampler import ReplaySampler
from study.search.schedule import Schedule
from study.search.state import best_search
from study.setup.setup import Setup

from .evaluator import Evaluator, Failure, Failures, Outcome
from .held_out import HeldOutScorer

log = logging.getLogger(__name__)

T = TypeVar("T")

_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 1.0
"""The minimum and maximum number of seconds that an idle worker waits before it looks again."""


@dataclass
class Worker:
    """A worker of a study. Any number of workers, one per process, share its work."""

    setup: Setup
    trials: Trials
    answers: ScoreStore
    claims: Claims
    workers: Workers
    sampler: ReplaySampler
    engine: Engine
    engine_signature: str
    """The engine's signature, which is stored with the answers."""
    interrupts: Interrupts
    heartbeat: Heartbeat
    schedule: Schedule | None = None
    """The questions of each generation; None if all questions are asked."""
    monitor: Monitor = field(default_factory=Monitor)
    _failures: Failures = field(default_factory=Failures)
    _last_generation: int | None = None
    """The generation of the trial that this worker has finished since it last read the trials."""

    def __post_init__(self) -> None:
        self.held_out = HeldOutScorer(
            self.setup.held_out,
            self.setup.genome,
            self.trials,
            self.answers,
            self.claims,
            self.engine,
            self.engine_signature,
            self.interrupts,
            self.heartbeat,
            self._failures,
        )
        self._rules = self.setup.rules
        self._evaluator = Evaluator(self.setup, self.engine, self.engine_signature, self.interrupts)

    @property
    def population(self) -> int:
        """The number of slots of a generation: CMA-ES's population, or the number of ascents."""
        return self.sampler.replay.population

    def store_budget(self) -> None:
        """Store the number of search trials that this run is to reach."""
        with self.interrupts.deferred():
            budget = self.setup.config.study.trials
            self._retry(lambda: store_budget(self.trials.study, budget))

    def search(self, deadline: float) -> bool:
        """Run trials until `deadline`, or until the study's workers have finished all baselines,
        all trials of the budget and all final merges. Return whether all of these are finished.

        No trial starts after `deadline`, a time of `time.monotonic`. A signal interrupts the
        engine or a wait, but never a write to the database.

        Raises EngineError or ScorerError after three failed trials in a row, and TaskError if a
        task cannot be scored.
        """
        with self.interrupts.deferred():
            return self._search(self._jobs(), deadline)

    def score_final_merges(self) -> None:
        """Evaluate the final merges of the search so far.

        Then score all contenders on held-out questions.
        """
        with self.interrupts.deferred():
            records = self.trials.all()
            jobs = self._jobs()
            while (job := jobs.next_final_job(records)) is not None:
                self._evaluate(job, time.perf_counter(), records)
                records = self.trials.all()
        self.held_out.score_all()

    def _jobs(self) -> Jobs:
        return self._rules.jobs(self.sampler.replay)

    def _search(self, jobs: Jobs, deadline: float) -> bool:
        turn = 0
        while True:
            started = time.perf_counter()
            records = self.trials.all()
            self.monitor.on_trials(records)
            if jobs.done(records):
                self.monitor.on_generation(records)
                return True
            self._report_generation(jobs, records)
            if time.monotonic() >= deadline:
                return False
            job = jobs.next(records, turn)
            if job is None:
                self._use_idle_time(jobs, records)
            else:
                turn = 0 if self._evaluate(job, started, records) else turn + 1

    def _report_generation(self, jobs: Jobs, records: Sequence[TrialRecord]) -> None:
        """Call the monitor if the generation of this worker's last trial is complete."""
        last, self._last_generation = self._last_generation, None
        if last is not None and last < jobs.state(records).generation:
            self.monitor.on_generation(records)

    def _use_idle_time(self, jobs: Jobs, records: Sequence[TrialRecord]) -> None:
        """Run an idle job, or score the best merge so far on held-out questions.

        Wait if there is neither, or not enough time.
        """
        self.heartbeat.doing = "waiting for trials of other workers"
        self._retry(self.heartbeat.reap_dead)
        typical = typical_seconds(records)
        if self._seconds_left(typical) >= typical / 2:
            idle_job = jobs.idle_job(records)
            if idle_job is not None:
                self._evaluate(idle_job, time.perf_counter(), records)
                return
            top = best_search(records)
            if top is not None and not self.held_out.has_scored(top):
                self.held_out.score(top)
                return
        self.interrupts.pause(min(max(typical / 20, _SHORTEST_WAIT), _LONGEST_WAIT))

    def _seconds_left(self, typical: float) -> float:
        """Return the estimated number of seconds until the end of the most recent trial."""
        claims_by_worker = self._retry(self.workers.unfinished_claims)
        claims = [claim for worker in claims_by_worker.values() for claim in worker]
        running = [c.seconds for c in claims if c.trial_id is not None]
        return typical - min(running, default=typical)

    def _evaluate(self, job: Job, ask_time: float, records: Sequence[TrialRecord]) -> bool:
        """Run a trial; return False if another worker has started it.

        `ask_time` is the value of `time.perf_counter` when this worker began to look for the job.
        """
        samples = self._samples(job, records)
        try:
            trial_id = self._start(job)
        except ClaimTaken:
            return False
        self.heartbeat.doing = job.key
        try:
            outcome = self._evaluator.outcome(job, ask_time, samples)
        except (EngineError, ScorerError) as error:
            self._record_failure(trial_id, error)
            return True
        except TaskError as error:
            self.claims.fail(trial_id, f"{type(error).__name__}: {error}")
            raise
        self._failures.reset()
        self._finish(job, trial_id, outcome)
        return True

    def _samples(self, job: Job, records: Sequence[TrialRecord]) -> Mapping[str, Sample] | None:
        """Return a trial's sample of questions for each task; None if all questions are asked."""
        if isinstance(job, CheckpointJob):
            search = self.setup.config.search
            return validation_samples(self.setup.search.tasks, search.validation)
        generation = job.attributes.get(GENERATION)
        if self.schedule is None or generation is None:
            return None
        return self.schedule.samples(generation, records)

    def _retry(self, work: Callable[[], T]) -> T:
        return self.trials.database.retry(work)

    def _start(self, job: Job) -> int:
        return self.claims.start(job.key, job.params, self._rules.distributions, job.attributes)

    def _finish(self, job: Job, trial_id: int, outcome: Outcome) -> None:
        """Store the result of a trial; if the trial was lost, store it with a new trial.

        If another worker has already started the job again, discard the result.
        """
        self._last_generation = job.attributes.get(GENERATION)
        while True:
            try:
                self.claims.finish(
                    *(trial_id, outcome.value, outcome.tasks, outcome.result),
                    *(outcome.answers, outcome.gradient),
                )
                return
            except TrialLost:
                log.warning(
                    "another worker declared this worker dead while it ran %s; the result is "
                    "stored with a new trial",
                    job.key,
                )
            try:  # the result is good: store it with a new trial if nobody has started one
                trial_id = self._start(job)
            except ClaimTaken:
                log.warning("another worker has started %s; this result is discarded", job.key)
                return

    def _record_failure(self, trial_id: int, error: Failure) -> None:
        log.warning("a trial failed and will be retried: %s", error)
        self.claims.fail(trial_id, f"{type(error).__name__}: {error}")
        self._failures.add(error)
