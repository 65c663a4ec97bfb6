"""A Postgres that is restarted and stays away under a running study: does the study notice?

    python -m benchmarks.outages [--restarts 20] [--outages 3] [--away 30]

A server of its own on the loopback, two workers of benchmarks/tiny.py on it. Restarts are by turns
orderly and crashes. Bounded: the study ends, or the script says that it hangs.
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
from tests.support.databases import Server
from tests.support.sleeping_study import NAME, finished_trials, start, tiny_config

WORKERS = 2
SECONDS = 0.1
"""Of a trial's scoring."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--outages", type=int, default=3)
    parser.add_argument("--away", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=600)
    given = parser.parse_args()
    rng = random.Random(0)
    server = Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            undisturbed = f"sqlite:///{Path(folder) / 'undisturbed.db'}"
            config = tiny_config(given.trials, heartbeat_timeout=2)
            start(undisturbed, config).join()
            crew = [start(server.url, config, SECONDS) for _ in range(WORKERS)]
            time.sleep(3)
            pauses = [0.0] * given.restarts + [given.away] * given.outages
            rng.shuffle(pauses)
            for i, pause in enumerate(pauses):
                if not all(process.is_alive() for process in crew):
                    break
                server.stop("immediate" if i % 2 else "fast")
                time.sleep(pause)
                server.start()
                time.sleep(rng.uniform(0.5, 2.0))
            hit = i + all(process.is_alive() for process in crew)
            for process in crew:
                process.join(300)
            database = open_storage(server.url, create=False)
            records = Trials(database, find_study(database, NAME)).all()
            database.engine.dispose()
            same = finished_trials(server.url) == finished_trials(undisturbed)
    finally:
        server.close()
    places = collections.Counter(
        (r.attributes["generation"], r.attributes["slot"])
        for r in records
        if r.complete and r.kind == "search"
    )
    states = collections.Counter(r.state.name for r in records)
    codes = [process.exitcode for process in crew]
    twice = sum(count - 1 for count in places.values())
    print(
        f"{hit} stops of the server while the study ran, {given.outages} of {given.away:.0f} s\n"
        "| exit codes | places | failed | running | twice | as undisturbed |\n"
        "|---|---|---|---|---|---|"
    )
    print(
        f"| {codes} | {len(places)} | {states['FAIL']} | {states['RUNNING']} | {twice} | "
        f"{'yes' if same else 'NO'} |"
    )
    good = same and not twice and not any(codes) and not states["RUNNING"]
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
