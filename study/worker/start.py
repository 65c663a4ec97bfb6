"""How a process becomes a worker of a study, alone or beside others."""

import contextlib
import gc
from collections.abc import Iterator

from storage.claims import Claims
from storage.heartbeat import Heartbeat
from storage.scores import ScoreStore
from storage.studies import stored_start
from storage.workers import Workers
from study.cli.interrupts import Interrupts
from study.setup.engine import EngineChoice
from study.setup.engine_facts import as_stored
from study.setup.enter import announce, enter_study, open_database
from study.setup.setup import Setup

from .worker import Worker


@contextlib.contextmanager
def open_worker(
    setup: Setup,
    url: str,
    choice: EngineChoice,
    interrupts: Interrupts,
    together: int = 1,
) -> Iterator[Worker]:
    """A worker on the study at `url`, new or resumed, with its engine running; one of so many that
    start `together`. Raises StorageError, StudyMismatch and EngineError.
    """
    config = setup.config
    with contextlib.ExitStack() as stack:
        database = open_database(setup, url, interrupts)
        stack.callback(database.engine.dispose)
        trials, population, worker_id = enter_study(setup, database, choice, together)
        choice = as_stored(choice, trials.study)
        workers = Workers(database, trials.study._study_id)
        heartbeat = Heartbeat(workers, worker_id, config.study.grace)
        stack.enter_context(heartbeat)
        records = trials.all()
        announce(setup, url, records, population)
        heartbeat.doing = "starting the engine"
        running = choice.start(setup.sources, setup.longest)
        stack.callback(running.close)
        gc.freeze()  # to look through all that stays, every few trials, took 0.7 s
        stack.callback(gc.unfreeze)
        heartbeat.doing = "looking for work"
        answers = ScoreStore(database)
        claims = Claims(database, trials.study._study_id, worker_id)
        yield Worker(
            setup,
            trials,
            answers,
            claims,
            workers,
            setup.sampler(population, stored_start(trials.study)),
            running,
            interrupts,
            heartbeat,
            setup.schedule(answers),
            choice.signature,
        )
