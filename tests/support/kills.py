"""Run a study whose workers are killed at random."""

import random
import time

from storage.database.database import open_storage
from storage.errors import StorageError
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from tests.support.sleeping_study import NAME, start, tiny_config

SECONDS = 0.1
"""The time of scoring a trial."""
HEARTBEAT_TIMEOUT = 2.0


def complete(trials: Trials) -> dict[int, TrialRecord]:
    return {r.number: r for r in trials.all() if r.complete}


def run_with_kills(url: str, trials: int, kills: int, workers: int, rng: random.Random) -> int:
    """Run a study to its end while workers are killed; return the number of finished trials that
    were lost."""
    config = tiny_config(trials, heartbeat_timeout=HEARTBEAT_TIMEOUT)
    processes = [start(url, config, SECONDS) for _ in range(workers)]
    seen: dict[int, TrialRecord] = {}
    lost, killed = 0, 0
    reader = None
    while any(process.is_alive() for process in processes):
        time.sleep(rng.uniform(0.3, 1.5))
        if reader is None:
            try:
                database = open_storage(url, create=False)
                reader = Trials(database, find_study(database, NAME))
            except StorageError:
                continue
        current = complete(reader)
        lost += sum(current.get(number) != record for number, record in seen.items())
        seen = current
        if killed < kills:
            victim = rng.randrange(workers)
            if processes[victim].is_alive():
                processes[victim].kill()
                processes[victim].join()
                processes[victim] = start(url, config, SECONDS)
                killed += 1
    print(f"  {killed} kills; exit codes at the end {[process.exitcode for process in processes]}")
    assert reader is not None
    reader.database.engine.dispose()
    return lost
