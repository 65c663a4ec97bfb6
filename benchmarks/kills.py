"""Worker processes killed at random moments: is anything lost, doubled or changed?

    python -m benchmarks.kills [--kills 100] [--workers 3] [--postgres URL]

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

from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from tests.support.databases import postgres_database
from tests.support.kills import run_with_kills
from tests.support.sleeping_study import NAME, evaluations, start, tiny_config


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
    same = evaluations(url) == evaluations(undisturbed)
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
            lost = run_with_kills(url, given.trials, given.kills, given.workers, rng)
            print(f"  {name}: {time.monotonic() - began:.0f} s")
            rows.append((name, url, lost))
        print(f"| {header} |\n|{'---|' * 7}")
        for name, url, lost in rows:
            good = report(name, url, lost, undisturbed) and good
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
