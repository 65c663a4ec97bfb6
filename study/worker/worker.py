"""The objective, and the loop that runs it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from objectives.engines.engine import Engine
from objectives.errors import EngineError, ScorerError, TaskError
from objectives.merge.recipe import MergeRecipe
from objectives.sampling import Sample
from objectives.scoring import Scores, finite_or_none
from storage.claims import Claims, ClaimTaken, TrialLost
from storage.heartbeat import Heartbeat
from storage.scores import HELD_OUT, Answers
from storage.studies import store_budget, stored_verdict
from storage.trials import GENERATION, KIND, TrialRecord, Trials, typical_seconds
from storage.workers import Workers
from study.cli.interrupts import Interrupts
from study.search.contenders import contenders
from study.search.genome import recipe_of
from study.search.jobs import Job, Jobs, held_out_key
from study.search.sampler import ReplaySampler
from study.search.schedule import Schedule
from study.search.state import best_search
from study.search.stored_scores import answers_of
from study.setup.setup import Setup

from .held_out import has_held_out

log = logging.getLogger(__name__)

T = TypeVar("T")
Told = Callable[[Sequence[TrialRecord]], None]

FAILURES_IN_A_ROW = 3
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 1.0
_Fault: TypeAlias = EngineError | ScorerError


@dataclass
class Worker:
    """One process that asks, merges, scores and tells, beside any number of others."""

    setup: Setup
    trials: Trials
    answers: Answers
    claims: Claims
    workers: Workers
    sampler: ReplaySampler
    engine: Engine
    interrupts: Interrupts
    heartbeat: Heartbeat
    schedule: Schedule | None = None
    engine_name: str = ""
    """What answers, as it is stored with the answers."""
    told: Told | None = None
    """Called with all trials whenever they were read."""
    _failures: int = 0
    _last_generation: int | None = None
    """Of the trial that this worker finished last, until the trials are read again."""
    _held_out: set[int] = field(default_factory=set)
    """Trials known to have held-out answers."""

    @property
    def population(self) -> int:
        return self.sampler.replay.population

    def keep_budget(self) -> None:
        """Store how many search trials this run is to reach."""
        with self.interrupts.held():
            self._patiently(lambda: store_budget(self.trials.study, self.setup.config.study.trials))

    def search(self, deadline: float) -> bool:
        """Work until every baseline, all places of the budget and the merges that the search comes
        to are finished, by this worker or others.

        `deadline` is a time of `time.monotonic`. Gives whether the budget is reached. A signal
        stops the engine's work or a wait, and nothing else. Raises EngineError or ScorerError after
        three failed trials in a row.
        """
        with self.interrupts.held():
            return self._search(self._jobs(), deadline)

    def _jobs(self) -> Jobs:
        budget = self.setup.config.study.trials
        return Jobs(self.setup.genome, self.sampler.replay, budget, self.setup.sampled)

    def _search(self, jobs: Jobs, deadline: float) -> bool:
        turn = 0
        while True:
            asked = time.perf_counter()
            records = self.trials.all()
            if self.told is not None:
                self.told(records)
            if jobs.done(records):
                self._post(records)
                return True
            self._post_each_generation(jobs, records)
            if time.monotonic() >= deadline:
                return False
            job = jobs.next(records, turn)
            if job is None:
                self._meanwhile(jobs, records)
            else:
                turn = 0 if self._evaluate(job, asked, records) else turn + 1

    def conclude(self) -> None:
        """Score the merges that the search comes to so far, and judge."""
        with self.interrupts.held():
            records = self.trials.all()
            jobs = self._jobs()
            while (job := jobs.next_final_job(records)) is not None:
                self._evaluate(job, time.perf_counter(), records)
                records = self.trials.all()
        self.judge()

    def judge(self) -> None:
        """Score all that is compared in the end on the held-out questions, each by one worker.

        Waits where others are at it. Raises EngineError or ScorerError after three failures in a
        row.
        """
        if not self.setup.held_out.tasks:
            return
        with self.interrupts.held():
            while without := [
                c.record
                for c in contenders(self.trials.all(), self.setup.genome)
                if self._is_without_held_out(c.record)
            ]:
                recipes = ((record, recipe_of(record, self.setup.genome)) for record in without)
                if not any(self._score_held_out(*each) for each in recipes):
                    self.heartbeat.doing = "waiting for the others' held-out questions"
                    self._patiently(self.heartbeat.bury_dead)
                    self.interrupts.pause(_LONGEST_WAIT)

    def _score_held_out(self, record: TrialRecord, recipe: MergeRecipe) -> bool:
        """False where another worker is at it."""
        what = held_out_key(record.number)
        try:
            self.claims.take(what)
        except ClaimTaken:
            return False
        if not self._is_without_held_out(record):  # another was done before we claimed them
            self.claims.release(what)
            return True
        log.info("trial %d: held-out questions", record.number)
        self.heartbeat.doing = what
        try:
            with self.interrupts.released():
                self.engine.load(recipe)
                scores = self.setup.held_out.ask(self.engine)
        except (EngineError, ScorerError) as error:
            log.warning("held-out questions failed and are asked again: %s", error)
            self.claims.release(what)
            self._count_failure(error)
            return True
        self._failures = 0
        self.answers.write(record.id, HELD_OUT, answers_of(scores, self.engine_name, True))
        self.claims.release(what)
        return True

    def _meanwhile(self, jobs: Jobs, records: Sequence[TrialRecord]) -> None:
        """Others run all there is to begin: do something useful if there is time, else wait."""
        self.heartbeat.doing = "waiting for the others' places"
        self._patiently(self.heartbeat.bury_dead)
        typical = typical_seconds(records)
        if self._seconds_left(typical) >= typical / 2:
            idle_job = jobs.idle_job(records)
            if idle_job is not None:
                self._evaluate(idle_job, time.perf_counter(), records)
                return
            top = best_search(records)
            if top is not None and self._is_without_held_out(top):
                self._score_held_out(top, recipe_of(top, self.setup.genome))
                return
        self.interrupts.pause(min(max(typical / 20, _SHORTEST_WAIT), _LONGEST_WAIT))

    def _seconds_left(self, typical: float) -> float:
        """Until the trial that was begun last ends, if it takes a typical time."""
        held = self._patiently(self.workers.at_work)
        claims = [claim for worker in held.values() for claim in worker]
        running = [c.seconds for c in claims if c.trial_id is not None]
        return typical - min(running, default=typical)

    def _is_without_held_out(self, record: TrialRecord) -> bool:
        if record.id not in self._held_out:
            if not has_held_out(record, self.answers, self.setup.held_out):
                return True
            self._held_out.add(record.id)
        return False

    def _evaluate(self, job: Job, asked: float, records: Sequence[TrialRecord]) -> bool:
        """Start a trial, merge, score and tell; `asked` is when it began to be made.

        False where another worker was first.
        """
        samples = self._samples(job, records)
        try:
            trial_id = self._start(job)
        except ClaimTaken:
            return False
        self.heartbeat.doing = job.key
        started = time.perf_counter()
        try:
            with self.interrupts.released():
                self.engine.load(job.recipe)
                merged = time.perf_counter()
                scores = self.setup.search.ask(self.engine, samples)
        except (EngineError, ScorerError) as error:
            self._failed(trial_id, error)
            return True
        except TaskError as error:
            self.claims.fail(trial_id, f"{type(error).__name__}: {error}")
            raise
        self._failures = 0
        score = time.perf_counter() - merged
        seconds = {"ask": started - asked, "merge": merged - started, "score": score}
        self._tell(job, trial_id, scores, seconds)
        self._last_generation = job.attributes.get(GENERATION)
        return True

    def _samples(self, job: Job, records: Sequence[TrialRecord]) -> Mapping[str, Sample] | None:
        """What a trial of the search is asked; None is everything, as for all others."""
        generation = job.attributes.get(GENERATION)
        if self.schedule is None or generation is None:
            return None
        return self.schedule.samples(generation, records)

    def _post_each_generation(self, jobs: Jobs, records: Sequence[TrialRecord]) -> None:
        """The worker whose trial was a generation's last writes the note, so that one does."""
        last, self._last_generation = self._last_generation, None
        if last is not None and last < jobs.state(records).generation:
            self._post(records)

    def _post(self, records: Sequence[TrialRecord]) -> None:
        """Write the dashboard's note and figures anew."""
        from storage.dashboard import (
            post,
        )  # plotly takes a second, which the first trial need not wait
        from study.monitors.dashboard_figures import figures
        from study.monitors.dashboard_note import note

        database, study = self.trials.database, self.trials.study
        verdict = self._patiently(lambda: stored_verdict(study))
        text = note(self.setup, records, self.population, database.url, verdict)
        shown = figures(records)
        try:
            self._patiently(lambda: post(database, study, text, shown))
        except Exception as error:  # a study does not end because of its note
            log.warning("the dashboard's note was not written: %s: %s", type(error).__name__, error)

    def _patiently(self, work: Callable[[], T]) -> T:
        return self.trials.database.patience(work)

    def _start(self, job: Job) -> int:
        return self.claims.start(job.key, job.params, self.setup.bounds, job.attributes)

    def _tell(self, job: Job, trial_id: int, scores: Scores, seconds: dict[str, float]) -> None:
        if scores.broken:
            log.warning("trial gave NaN or infinity in %d answers: they score 0", scores.broken)
        soft = self.setup.config.search.soft
        tasks = {name: task.mean for name, task in scores.tasks.items()}
        result = {
            "error": finite_or_none(scores.error),
            "soft": scores.soft,
            "objective": soft * scores.soft + (1 - soft) * scores.value,
            "asked": scores.asked,
            "questions": self.setup.search.questions,
            "sampling_error": finite_or_none(scores.sampling_error),
            "broken": scores.broken,
            "seconds": {part: round(s, 4) for part, s in seconds.items()},
        }
        answers = answers_of(scores, self.engine_name, KIND in job.attributes)
        while True:
            try:
                self.claims.finish(trial_id, scores.value, tasks, result, answers)
                return
            except TrialLost:
                log.warning("this worker was taken for dead while it did %s", job.key)
            try:  # the result is good: it goes to a new trial if nobody has begun one
                trial_id = self._start(job)
            except ClaimTaken:
                log.warning("another worker does %s now: this result is dropped", job.key)
                return

    def _failed(self, trial_id: int, error: _Fault) -> None:
        log.warning("a trial failed, its place is asked again: %s", error)
        self.claims.fail(trial_id, f"{type(error).__name__}: {error}")
        self._count_failure(error)

    def _count_failure(self, error: _Fault) -> None:
        self._failures += 1
        if self._failures == FAILURES_IN_A_ROW:
            kind = ScorerError if isinstance(error, ScorerError) else EngineError
            raise kind(f"{FAILURES_IN_A_ROW} trials failed in a row, the last with: {error}")
