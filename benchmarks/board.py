"""What a study of 1000 trials costs to look at, with `study.dashboard` and with stock
optuna-dashboard: time of the start page and of the study's page, CPU seconds a poll, size of the
database.

    python -m benchmarks.board [--trials 1000] [--polls 3] [--postgres URL]

The start page is everything that the browser asks for to list the studies; the study's page is the
first request for all its trials. A poll asks for the study as the page does, 11 s after the last:
past what the server remembers.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from sqlalchemy import create_engine, text

from tests.support.databases import postgres_database
from tests.support.sleeping_study import start, tiny_config, tiny_dict

PAUSE = 11.0
START_PAGE = ("/dashboard", "/static/bundle.js", "/api/meta", "/api/studies")


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=120) as response:
        return len(response.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def look(words: list[str], port: int, polls: int, folder: Path) -> str:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*words, "--port", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        root = f"http://127.0.0.1:{port}"
        while True:
            try:
                get(f"{root}/")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        up = time.perf_counter() - began
        opened = time.perf_counter()
        for path in START_PAGE:
            get(root + path)
        listed = time.perf_counter()
        size = get(f"{root}/api/studies/1?after=0")
        first = time.perf_counter() - listed
        costs, waits = [], []
        for _ in range(polls):
            time.sleep(PAUSE)
            before, asked = cpu(process.pid), time.perf_counter()
            get(f"{root}/api/studies/1?after=990")
            waits.append(time.perf_counter() - asked)
            costs.append(cpu(process.pid) - before)
    finally:
        process.kill()
        process.wait()
    return (
        f"{up:.1f} | {listed - opened:.2f} | {first:.1f} | {size / 1e6:.1f} | "
        f"{sorted(costs)[len(costs) // 2]:.2f} | {sorted(waits)[len(waits) // 2]:.2f}"
    )


def measure(name: str, url: str, given: argparse.Namespace) -> None:
    config = tiny_config(given.trials, 30, wide=True)
    began = time.perf_counter()
    start(url, config).join()
    print(
        f"  {name}: {given.trials} trials made in {time.perf_counter() - began:.0f} s", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.yaml"
        path.write_text(yaml.safe_dump(tiny_dict(given.trials, 30, wide=True)))
        root = Path(__file__).parent.parent
        ours = [sys.executable, "-m", "study.dashboard", str(path), "--storage", url]
        stock = [str(Path(sys.executable).with_name("optuna-dashboard")), url]
        for who, words in (("ours", ours), ("stock", stock)):
            print(f"| {name} | {who} | {look(words, free_port(), given.polls, root)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--polls", type=int, default=3)
    parser.add_argument(
        "--postgres", default="postgresql+psycopg2://postgres@127.0.0.1:5432/postgres"
    )
    given = parser.parse_args()
    columns = ("s to listen", "s start page", "s study's page", "MB", "CPU s a poll", "s a poll")
    print(f"| database | who | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        measure("SQLite", f"sqlite:///{Path(folder) / 'study.db'}", given)
        size = sum(path.stat().st_size for path in Path(folder).glob("study.db*"))
        print(f"  SQLite: {size / 1e6:.1f} MB on disk")
    with postgres_database(given.postgres) as url:
        measure("Postgres", url, given)
        engine = create_engine(url)
        with engine.connect() as connection:
            query = text("SELECT pg_database_size(current_database())")
            print(f"  Postgres: {connection.execute(query).scalar_one() / 1e6:.1f} MB on disk")
        engine.dispose()


if __name__ == "__main__":
    main()
