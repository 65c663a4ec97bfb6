"""What the storage costs a trial: ours beside stock Optuna, on SQLite and on Postgres.

    python benchmarks/overhead.py [--trials 1000] [--postgres URL]

Every trial of ours does what the worker does around merging and scoring: read the finished
places, propose, create, write the answers of 2,250 questions, tell, read for the progress line.
Stock is Optuna's CmaEsSampler with 48 suggest_float calls. Scores are random.
"""

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from storage.answers import SEARCH, Answers, TaskAnswers
from storage.database import open_storage
from storage.studies import create_study, find_study
from storage.trials import Trials, best
from study.config import Range
from study.sampler import GENERATION, SLOT, Replay, places_of

SPACE = {f"model-{i % 3}/layers.{i // 3}/p": Range(low=0.0, high=1.4) for i in range(48)}
BOUNDS = {name: (r.low, r.high) for name, r in SPACE.items()}
RNG = np.random.default_rng(0)


def ours(url: str, count: int) -> list[float]:
    """Seconds of each trial."""
    storage = open_storage(url)
    trials, answers = Trials(create_study(storage, "ours")), Answers(storage.engine)
    replay = Replay(SPACE, 0, 30, 1 / 6, [0.5] * 48)
    seconds = []
    for _ in range(count):
        scores = {
            name: TaskAnswers(0.5, *RNG.random((2, n), dtype=np.float32), 0)
            for name, n in (("multiple_choice", 2000), ("retrieval", 250))
        }
        began = time.perf_counter()
        finished, taken = places_of(trials.frozen())
        place = replay.next_place(taken, finished)
        assert place is not None
        params = replay.propose(place, finished)
        attributes = {GENERATION: place.generation, SLOT: place.slot}
        trial_id = trials.start(params, BOUNDS, attributes)
        answers.write(trial_id, SEARCH, scores)
        result = {"error": 0.01, "soft": 0.5, "seconds": {"merge": 0.1}}
        trials.finish(trial_id, float(RNG.random()), {"multiple_choice": 0.5}, result)
        best(trials.all())
        seconds.append(time.perf_counter() - began)
    storage.engine.dispose()
    return seconds


def stock(url: str, count: int) -> list[float]:
    study = optuna.create_study(
        storage=url,
        study_name="stock",
        direction="maximize",
        sampler=optuna.samplers.CmaEsSampler(seed=0, popsize=30),
    )
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        trial = study.ask()
        for name, (low, high) in BOUNDS.items():
            trial.suggest_float(name, low, high)
        study.tell(trial, float(RNG.random()))
        seconds.append(time.perf_counter() - began)
    return seconds


def reopen(url: str) -> float:
    """Seconds to open a study and know the next trial."""
    began = time.perf_counter()
    trials = Trials(find_study(open_storage(url, create=False), "ours"))
    finished, taken = places_of(trials.frozen())
    replay = Replay(SPACE, 0, 30, 1 / 6, [0.5] * 48)
    place = replay.next_place(taken, finished)
    assert place is not None
    replay.propose(place, finished)
    return time.perf_counter() - began


def near(seconds: list[float], trial: int) -> str:
    """Median over up to twenty trials that end at this one, in milliseconds."""
    if len(seconds) < trial:
        return "-"
    return f"{1000 * statistics.median(seconds[max(0, trial - 20) : trial]):.1f}"


def measure(name: str, url: str, count: int) -> None:
    runs: list[tuple[str, Callable[[str, int], list[float]]]] = [("ours", ours), ("stock", stock)]
    for who, run in runs:
        seconds = run(url, count)
        columns = " | ".join(near(seconds, trial) for trial in (10, 100, 1000))
        print(f"| {name} | {who} | {columns} |", flush=True)
    print(f"{name}: reopening {count} trials takes {reopen(url):.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument(
        "--postgres", default="postgresql+psycopg2://postgres@127.0.0.1:5432/postgres"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| database | who | ms at trial 10 | 100 | 1000 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'study.db'}"
        measure("SQLite", url, given.trials)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"SQLite: {size / 1e6:.1f} MB for both studies")
    database = f"overhead_{uuid.uuid4().hex}"
    admin = create_engine(given.postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {database}"))
    try:
        url = make_url(given.postgres).set(database=database)
        measure("Postgres", url.render_as_string(hide_password=False), given.trials)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {database} WITH (FORCE)"))


if __name__ == "__main__":
    main()
