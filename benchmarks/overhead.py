"""What a trial costs beside merging and scoring, for ours and for stock Optuna, in one run.

    python -m benchmarks.overhead [--trials 1000] [--workers 1 8] [--postgres URL]

Ours is the whole worker of benchmarks/tiny.py with 48 parameters, the answers of 2,250 questions a
trial and a score that takes no time: read, propose, claim, store, and the dashboard's note after
every generation. Stock is Optuna's CmaEsSampler with 48 suggest_float calls and a value. A figure
is the time from one finished trial to the next, all workers together, over the twenty trials
around the one named.
"""

import argparse
import collections
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from study.search.genome import MergeGenome
from study.search.sampler import Replay, start_of
from study.search.state import SearchState
from tests.support.databases import postgres_database
from tests.support.sleeping_study import LAYERS, NAME, start, tiny_config

POPULATION = 30
CONFIG = tiny_config(1, POPULATION, wide=True)
GENOME = MergeGenome(CONFIG.genome, CONFIG.space, LAYERS)


def ours(url: str, count: int, workers: int) -> list[FrozenTrial]:
    config = tiny_config(count, POPULATION, wide=True)
    crew = [start(url, config) for _ in range(workers)]
    for process in crew:
        process.join()
    assert not any(process.exitcode for process in crew)
    database = open_storage(url, create=False)
    trials = find_study(database, NAME).get_trials()
    database.engine.dispose()
    return [t for t in trials if "generation" in t.user_attrs and t.state == TrialState.COMPLETE]


def stock(url: str, count: int, workers: int) -> list[FrozenTrial]:
    optuna.create_study(storage=url, study_name="stock", direction="maximize")
    crew = [
        multiprocessing.get_context("fork").Process(
            target=_stock_worker, args=(url, n, count // workers)
        )
        for n in range(workers)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    return optuna.load_study(storage=url, study_name="stock").get_trials()


def _stock_worker(url: str, number: int, count: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.CmaEsSampler(seed=number, popsize=POPULATION)
    study = optuna.load_study(storage=url, study_name="stock", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        return -sum(
            (trial.suggest_float(name, r.low, r.high) - 1 / 3) ** 2
            for name, r in GENOME.space.items()
        )

    study.optimize(objective, count)


def near(trials: Sequence[FrozenTrial], number: int) -> str:
    """Milliseconds from one trial to the next, over the twenty around this one."""
    ends = sorted(t.datetime_complete for t in trials if t.datetime_complete)
    first, last = max(0, number - 11), min(number + 9, len(ends) - 1)
    if len(ends) < number:
        return "-"
    return f"{1000 * (ends[last] - ends[first]).total_seconds() / (last - first):.1f}"


def wasted(trials: Sequence[FrozenTrial]) -> str:
    """Trials a generation, in the mean, whose scores the search never used."""
    counts: collections.Counter[int] = collections.Counter()
    for trial in trials:
        attributes = {**trial.user_attrs, **trial.system_attrs}
        generation = attributes.get("generation", attributes.get("cma:generation"))
        if generation is not None:
            counts[generation] += 1
    whole = [count for _, count in sorted(counts.items())[:-1]]
    if not whole:
        return "-"
    return f"{sum(count - POPULATION for count in whole) / len(whole):.1f}"


def reopen(url: str) -> float:
    """Seconds to open a study and know the next trial."""
    began = time.perf_counter()
    database = open_storage(url, create=False)
    records = Trials(database, find_study(database, NAME)).all()
    state = SearchState.of(records, POPULATION)
    replay = Replay(GENOME.space, 0, POPULATION, 1 / 6, start_of(GENOME.space, 0, False))
    replay.propose(state.free_slots()[0], state.finished)
    database.engine.dispose()
    return time.perf_counter() - began


def measure(name: str, url: str, count: int, workers: int) -> None:
    for who, run in (("ours", ours), ("stock", stock)):
        trials = run(url, count, workers)
        columns = " | ".join(near(trials, number) for number in (10, 100, 1000))
        print(f"| {name} | {workers} | {who} | {columns} | {wasted(trials)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--postgres", default="postgresql+psycopg2://postgres@127.0.0.1:5432/postgres"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| database | workers | who | ms at trial 10 | 100 | 1000 | wasted a generation |")
    print("|---|---|---|---|---|---|---|")
    notes = []
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'study.db'}"
            measure("SQLite", url, given.trials, workers)
            notes.append(f"SQLite: reopened in {reopen(url):.2f} s")
        with postgres_database(given.postgres) as url:
            measure("Postgres", url, given.trials, workers)
            notes.append(f"Postgres: reopened in {reopen(url):.2f} s")
    print("\n".join(notes[:2]))


if __name__ == "__main__":
    main()
