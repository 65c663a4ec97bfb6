"""The objective, and the loop that runs it."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console

from objectives.engines.engine import Engine, EngineError
from objectives.merge.recipe import MergeRecipe
from objectives.scoring import Scores
from storage.answers import HELD_OUT, SEARCH, Answers
from storage.database import open_storage
from storage.studies import create_study, sole_run
from storage.trials import TrialRecord, Trials
from storage.url import redacted

from .genome import Baseline
from .interrupts import Interrupted, Interrupts
from .progress import Progress
from .sampler import GENERATION, SLOT, Place, ReplaySampler, places_of
from .setup import Setup, check_fingerprint, choose_engine
from .summary import answers_of, scores_of

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3


@dataclass
class Worker:
    """One process that asks, merges, scores and tells."""

    setup: Setup
    trials: Trials
    answers: Answers
    sampler: ReplaySampler
    engine: Engine
    interrupts: Interrupts
    progress: Progress
    _failures: int = 0

    def search(self, budget: int, deadline: float) -> bool:
        """Baselines, then places until `budget` search trials are finished.

        `deadline` is a time of `time.monotonic`. Gives whether the budget is reached. Raises
        EngineError after three failed trials in a row.
        """
        with self.progress:
            return self._baselines(deadline) and self._places(budget, deadline)

    def _baselines(self, deadline: float) -> bool:
        for baseline in self._missing_baselines():
            if time.monotonic() >= deadline:
                return False
            self._baseline(baseline)
        return True

    def _places(self, budget: int, deadline: float) -> bool:
        while True:
            asked = time.perf_counter()
            finished, taken = places_of(self.trials.frozen())
            if len(finished) >= budget:
                return True
            if time.monotonic() >= deadline:
                return False
            place = self.sampler.replay.next_place(taken, finished)
            assert place is not None  # nobody else runs places of this study
            self._place(place, self.sampler.replay.propose(place, finished), asked)

    def ask_held_out(self, record: TrialRecord, recipe: MergeRecipe) -> Scores | None:
        """A trial's scores on the held-out questions, from the storage or from the engine.

        None where the study holds nothing out.
        """
        if not self.setup.held_out.tasks:
            return None
        stored = self.answers.read(record.id, HELD_OUT)
        if not stored:
            log.info("trial %d: held-out questions", record.number)
            self.engine.load(recipe)
            stored = answers_of(self.setup.held_out.ask(self.engine))
            with self.interrupts.held():
                self.answers.write(record.id, HELD_OUT, stored)
        return scores_of(stored)

    def _missing_baselines(self) -> list[Baseline]:
        done = {record.baseline for record in self.trials.all() if record.complete}
        return [b for b in self.setup.genome.baselines() if b.name not in done]

    def _baseline(self, baseline: Baseline) -> None:
        asked = time.perf_counter()

        def start() -> int:
            return self.trials.start_baseline(
                baseline.params, self.setup.bounds, baseline.name, baseline.kind
            )

        self._evaluate(start, baseline.recipe, asked)

    def _place(self, place: Place, params: Mapping[str, float], asked: float) -> None:
        attributes = {GENERATION: place.generation, SLOT: place.slot}
        recipe = self.setup.genome.recipe(params)
        self._evaluate(
            lambda: self.trials.start(params, self.setup.bounds, attributes), recipe, asked
        )

    def _evaluate(self, start: Callable[[], int], recipe: MergeRecipe, asked: float) -> None:
        """Start a trial, merge, score and tell; `asked` is when it began to be made.

        A signal stops the engine's work and nothing else, so no trial stays running.
        """
        with self.interrupts.held():
            trial_id = start()
            started = time.perf_counter()
            try:
                with self.interrupts.released():
                    self.engine.load(recipe)
                    merged = time.perf_counter()
                    scores = self.setup.search.ask(self.engine)
            except EngineError as error:
                self._failed(trial_id, error)
                return
            except BaseException as error:
                self.trials.fail(trial_id, _reason(error))
                raise
            self._failures = 0
            score = time.perf_counter() - merged
            seconds = {"ask": started - asked, "merge": merged - started, "score": score}
            self._tell(trial_id, scores, seconds)
        self.progress.told(self.trials.all())

    def _tell(self, trial_id: int, scores: Scores, seconds: dict[str, float]) -> None:
        if scores.broken:
            log.warning("trial gave NaN or infinity in %d answers: they score 0", scores.broken)
        began = time.perf_counter()
        self.answers.write(trial_id, SEARCH, answers_of(scores))
        seconds["store"] = time.perf_counter() - began
        tasks = {name: task.mean for name, task in scores.tasks.items()}
        result = {
            "error": scores.error if math.isfinite(scores.error) else None,
            "soft": scores.soft,
            "broken": scores.broken,
            "seconds": {part: round(s, 4) for part, s in seconds.items()},
        }
        self.trials.finish(trial_id, scores.value, tasks, result)

    def _failed(self, trial_id: int, error: EngineError) -> None:
        log.warning("a trial failed, its place is asked again: %s", error)
        self.trials.fail(trial_id, _reason(error))
        self._failures += 1
        if self._failures == FAILURES_IN_A_ROW:
            raise EngineError(f"{FAILURES_IN_A_ROW} trials failed in a row, the last with: {error}")


@contextlib.contextmanager
def open_worker(
    setup: Setup,
    url: str,
    budget: int,
    engine: str | None,
    interrupts: Interrupts,
    console: Console,
) -> Iterator[Worker]:
    """A worker on the study at `url`, new or resumed, with its engine running.

    Raises StorageError, StudyMismatch, StudyBusy and EngineError.
    """
    name, choice = setup.config.name, choose_engine(setup.config, engine)
    with contextlib.ExitStack() as stack:
        database = open_storage(url)
        stack.callback(database.engine.dispose)
        stack.enter_context(sole_run(database, name))
        study = create_study(database, name)
        population = check_fingerprint(setup, study, choice.dtype)
        trials, answers = Trials(study), Answers(database.engine)
        answers.sweep()
        left = trials.fail_running("its run ended without a word")
        if left:
            log.info("trials that an earlier run left running are failed: %s", left)
        finished = len(places_of(trials.frozen())[0])
        verb = "resuming" if trials.frozen() else "starting"
        log.info("%s study %s in %s", verb, name, redacted(url))
        log.info(
            "%d of %d search trials finished, %d parameters, population %d, %d questions a trial",
            *(finished, budget, len(setup.genome.space), population, setup.search.questions),
        )
        running = choice.start(setup.sources)
        stack.callback(running.close)
        progress = Progress(console, budget, population)
        sampler = setup.sampler(population)
        yield Worker(setup, trials, answers, sampler, running, interrupts, progress)


def _reason(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"interrupted by {error}"
    return f"{type(error).__name__}: {error}"
