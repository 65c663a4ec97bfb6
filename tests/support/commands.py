"""Run the commands as processes, on a small study of a part of the demo's models."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

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
    """Write a study of the demo's models, shallow ones, with few of its questions; return its path.

    It has as many parameters as the demo.
    """
    data = yaml.safe_load((DEMO / "study.yaml").read_text())
    genome, models = data["genome"], shallow_models()
    genome["models"] = [str(models / Path(model).name) for model in genome["models"]]
    genome["base_model"] = str(models / Path(genome["base_model"]).name)
    genome["layer_granularity"] = 1
    for task, count in zip(data["tasks"], (60, 16), strict=True):
        lines = (DEMO / task["data"]).read_text().split("\n")
        (folder / Path(task["data"]).name).write_text("\n".join(lines[::-1][: count + 1]))
        task["data"] = Path(task["data"]).name
    data["study"] |= {"trials": TRIALS, "population": POPULATION, "held_out": 0.5}
    change(data)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="shallow-")


@functools.cache
def shallow_models() -> Path:
    """Return a folder with the demo's models reduced to every fourth layer, which merge and answer
    four times as fast."""
    root = Path(_root().name)
    for source in sorted((DEMO / "models").iterdir()):
        folder = root / source.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((source / "config.json").read_text())
        config["num_hidden_layers"] //= 4
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {}
        for name, tensor in load_file(source / "model.safetensors").items():
            match = re.search(r"layers\.(\d+)\.", name)
            if match is None:
                tensors[name] = tensor
            elif int(match[1]) % 4 == 0:
                tensors[name.replace(match[0], f"layers.{int(match[1]) // 4}.")] = tensor
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return root


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
