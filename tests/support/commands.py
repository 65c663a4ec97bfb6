"""Run the commands as processes, on a small study of the demo's models."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from storage.database.database import open_storage
from storage.errors import StorageError
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from storage.workers import WorkerRecord, Workers
from tests.support.command_server import CommandServer
from tests.support.paths import DEMO

TRIALS, POPULATION = 10, 4


Change = Callable[[dict[str, Any]], None]


def write_study(folder: Path, change: Change = lambda data: None) -> Path:
    """Write a study of the demo's models with few of its questions; return its path."""
    data = yaml.safe_load((DEMO / "study.yaml").read_text())
    genome = data["genome"]
    genome["models"] = [str(DEMO / model) for model in genome["models"]]
    genome["base_model"] = str(DEMO / genome["base_model"])
    for task, count in zip(data["tasks"], (60, 16), strict=True):
        lines = (DEMO / task["data"]).read_text().split("\n")
        (folder / Path(task["data"]).name).write_text("\n".join(lines[::-1][: count + 1]))
        task["data"] = Path(task["data"]).name
    data["study"] |= {"trials": TRIALS, "population": POPULATION, "held_out": 0.5}
    change(data)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


_server = CommandServer()


def command(name: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m study.NAME` to its end, in a process that is forked from one that has imported
    the commands."""
    texts = [str(word) for word in words]
    code, out, err = _server.run(name, texts, folder, timeout=300)
    return subprocess.CompletedProcess([f"study.{name}", *texts], code, out, err)


def start_run(config: Path, url: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "study.run", str(config), "--storage", url]
    return subprocess.Popen(
        words,
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
        },  # concurrent processes would compete for CPU threads
    )


def records(url: str, study: str = "demo") -> list[TrialRecord]:
    storage = open_storage(url, create=False)
    try:
        return Trials(storage, find_study(storage, study)).all()
    finally:
        storage.engine.dispose()


def finished(url: str) -> int:
    """Return the number of complete trials; 0 if there is no study yet."""
    try:
        return sum(record.complete for record in records(url))
    except StorageError:
        return 0


def wait_for(process: subprocess.Popen[str], url: str, count: int) -> None:
    while finished(url) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)


def workers_of(url: str) -> list[WorkerRecord]:
    storage = open_storage(url, create=False)
    try:
        return Workers(storage, find_study(storage, "demo")._study_id).read_all()[0]
    finally:
        storage.engine.dispose()


def wait_for_true(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def search_of(url: str) -> dict[tuple[int, int], tuple[Mapping[str, float], float]]:
    """Return the parameters and the score of each finished search trial, by slot."""
    return {
        (r.attributes["generation"], r.attributes["slot"]): (r.params, r.value or 0.0)
        for r in records(url)
        if r.complete and r.kind == "search"
    }
