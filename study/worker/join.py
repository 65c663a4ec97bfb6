"""Join a study as one of its workers, with a running engine."""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace

from storage.claims import Claims
from storage.gradients import GradientStore
from storage.heartbeat import Heartbeat
from storage.scores import ScoreStore
from storage.workers import Workers
from study.cli.interrupts import Interrupts
from study.setup.engine import EngineChoice
from study.setup.engine_facts import with_stored_facts
from study.setup.enter import enter_study, log_start, open_database
from study.setup.setup import Setup

from .worker import Worker


@contextlib.contextmanager
def join_study(
    setup: Setup, url: str, choice: EngineChoice, interrupts: Interrupts, num_workers: int = 1
) -> Iterator[Worker]:
    """Create or resume the study at `url`, start the engine, and yield a worker of the study.

    `num_workers` is the number of workers that this run starts.

    Raises ConfigError, StorageError, StudyMismatch and EngineError.
    """
    with contextlib.ExitStack() as stack:
        database = open_database(setup, url, interrupts)
        stack.callback(database.engine.dispose)
        trials, population, worker_id = enter_study(setup, database, choice, num_workers)
        choice = replace(
            with_stored_facts(choice, trials.study),
            differences=setup.rules.differences,
            max_hops=setup.rules.max_hops,
        )
        workers = Workers(database, trials.study._study_id)
        heartbeat = Heartbeat(workers, worker_id, setup.config.study.heartbeat_timeout)
        stack.enter_context(heartbeat)
        log_start(setup, url, trials.all(), population)
        heartbeat.doing = "starting the engine"
        engine = choice.start(setup.sources, setup.longest)
        stack.callback(engine.close)
        gc.freeze()  # without it, garbage collection took 0.7 s every few trials
        stack.callback(gc.unfreeze)
        heartbeat.doing = "looking for work"
        answers = ScoreStore(database)
        gradients = GradientStore(database, trials.study._study_id)
        yield Worker(
            setup=setup,
            trials=trials,
            answers=answers,
            claims=Claims(database, trials.study._study_id, worker_id),
            workers=workers,
            sampler=setup.sampler(trials.study, population, gradients),
            engine=engine,
            engine_signature=choice.signature,
            interrupts=interrupts,
            heartbeat=heartbeat,
            schedule=setup.rules.schedule(answers),
        )
