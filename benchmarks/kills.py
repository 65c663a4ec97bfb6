"""Worker processes killed at random moments: is anything lost, doubled or changed?

    python benchmarks/kills.py [--kills 100] [--workers 3] [--postgres URL]

One study on SQLite and one on Postgres with the tiny objective of benchmarks/tiny.py; kill -9 hits
a random worker after a random time, and another takes its place. Beside them one worker runs the
same study undisturbed. Bounded: it ends when the study has ended.
"""

import argparse
import collections
import random
import tempfile
import time
from pathlib import Path

from temporary import postgres_database
from tiny import NAME, found, start, tiny_config

from storage.database.database import open_storage
from storage.errors import StorageError
from storage.studies import find_study
from storage.trials import TrialRecord, Trials

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


def report(name: str, url: str, lost: int, undisturbed: str) -> bool:
    database = open_storage(url, create=False)
    records = Trials(database, find_study(database, NAME)).all()
    database.engine.dispose()
    places = collections.Counter(
        (r.attributes["generation"], r.attributes["slot"])
        for r in records
        if r.complete and r.kind == "search"
    )
    twice = sum(count - 1 for count in places.values())
    states = collections.Counter(r.state.name for r in records)
    same = found(url) == found(undisturbed)
    print(
        f"| {name} | {len(places)} | {states['FAIL']} | {states['RUNNING']} | {lost} | {twice} | "
        f"{'yes' if same else 'NO'} |",
        flush=True,
    )
    return same and not lost and not twice and not states["RUNNING"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--postgres", default="postgresql+psycopg2://postgres@127.0.0.1:5432/postgres"
    )
    given = parser.parse_args()
    rng = random.Random(given.seed)
    good = True
    with tempfile.TemporaryDirectory() as folder, postgres_database(given.postgres) as postgres:
        undisturbed = f"sqlite:///{Path(folder) / 'undisturbed.db'}"
        start(undisturbed, tiny_config(given.trials)).join()
        header = "database | places | failed | running | lost | twice | as undisturbed"
        rows = []
        for name, url in (
            ("SQLite", f"sqlite:///{Path(folder) / 'study.db'}"),
            ("Postgres", postgres),
        ):
            began = time.monotonic()
            lost = disturb(url, given.trials, given.kills, given.workers, rng)
            print(f"  {name}: {time.monotonic() - began:.0f} s")
            rows.append((name, url, lost))
        print(f"| {header} |\n|{'---|' * 7}")
        for name, url, lost in rows:
            good = report(name, url, lost, undisturbed) and good
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
