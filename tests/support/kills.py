"""A study whose workers are killed at random."""

import random
import time

from storage.database.database import open_storage
from storage.errors import StorageError
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from tests.support.sleeping_study import NAME, start, tiny_config

SECONDS = 0.1
"""Of a trial's scoring."""


GRACE = 2.0


def complete(trials: Trials) -> dict[int, TrialRecord]:
    return {r.number: r for r in trials.all() if r.complete}


def disturb(url: str, trials: int, kills: int, workers: int, rng: random.Random) -> int:
    """Run a study to its end under kills; gives how many finished trials were ever lost."""
    config = tiny_config(trials, grace=GRACE)
    crew = [start(url, config, SECONDS) for _ in range(workers)]
    seen: dict[int, TrialRecord] = {}
    lost, done = 0, 0
    reader = None
    while any(process.is_alive() for process in crew):
        time.sleep(rng.uniform(0.3, 1.5))
        if reader is None:
            try:
                database = open_storage(url, create=False)
                reader = Trials(database, find_study(database, NAME))
            except StorageError:
                continue
        now = complete(reader)
        lost += sum(now.get(number) != record for number, record in seen.items())
        seen = now
        if done < kills:
            victim = rng.randrange(workers)
            if crew[victim].is_alive():
                crew[victim].kill()
                crew[victim].join()
                crew[victim] = start(url, config, SECONDS)
                done += 1
    print(f"  {done} kills; exit codes at the end {[process.exitcode for process in crew]}")
    assert reader is not None
    reader.database.engine.dispose()
    return lost
