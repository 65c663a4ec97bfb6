"""Tests of --wandb: each trial is logged once, and no error of wandb ends a study."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from storage.trials import GENERATION, SLOT, TASKS, TrialRecord
from study.cli.options import Wandb
from study.cli.session import application
from study.config.load import load_config
from study.monitors.wandb import STATE, Sender, Table, Tracker
from study.run import run
from study.search.sampler import Replay
from study.setup.setup import Setup, build
from tests.support.models import point
from tests.support.paths import DEMO, ROOT

POPULATION = 5


@pytest.fixture(scope="module")
def setup() -> Setup:
    return build(load_config(DEMO / "study.yaml"), check_values=False)


def trial(setup: Setup, index: int, value: float, **attributes: Any) -> TrialRecord:
    slot = {GENERATION: index // POPULATION, SLOT: index % POPULATION}
    tasks = {TASKS: {"multiple_choice": value, "retrieval": value / 2}}
    return TrialRecord(
        index,
        index,
        TrialState.COMPLETE,
        point(setup.genome, index),
        value,
        (attributes or slot) | tasks,
    )


def tracker(setup: Setup, study: optuna.Study) -> tuple[Tracker, list[Mapping[str, Any]]]:
    space = setup.genome.space
    sent: list[Mapping[str, Any]] = []
    replay = Replay(space, 0, POPULATION, 1 / 6, [0.5] * len(space))
    return Tracker(setup, replay, study, sent.append), sent


def test_each_trial_is_logged_once_in_the_order_of_the_search(setup: Setup) -> None:
    study = optuna.create_study()
    first, sent = tracker(setup, study)
    records = [trial(setup, i, i / 10) for i in range(7)]
    first.log([records[i] for i in (2, 0, 4)])
    first.log([records[i] for i in (2, 0, 4, 1)])
    assert [n["evaluations"] for n in sent] == [1, 2, 3]
    first.log(records[:6])
    assert [n["evaluations"] for n in sent] == [1, 2, 3, 4, 5, 5, 6]
    assert sent[0] == {
        "evaluations": 1,
        "trial/score": 0.0,
        "trial/multiple_choice": 0.0,
        "trial/retrieval": 0.0,
    }
    first.store()
    assert study.user_attrs[STATE] == {"id": first.state["id"], "logged": 6}
    second, more = tracker(setup, study)
    second.log(records)
    assert second.state["id"] == first.state["id"]
    assert [n["evaluations"] for n in more] == [7]


def test_a_generation_logs_the_same_keys_as_mergekit_evolve(setup: Setup) -> None:
    current, sent = tracker(setup, optuna.create_study())
    base = trial(setup, 9, 0.25, baseline="base", kind="base")
    current.log([base, *(trial(setup, i, i / 10) for i in range(5))])
    numbers = dict(sent[-1])
    tables = {name: numbers.pop(name) for name in ("best_genome", "mean_genome", "mean_std")}
    assert "dare_ties" in numbers.pop("best_config")
    assert numbers == pytest.approx(
        {
            "generation": 0,
            "evaluations": 5,
            "best_score": 0.4,
            "baseline/base": 0.25,
            "population/score_mean": 0.2,
            "population/score_std": 0.02**0.5,
            "population/multiple_choice_acc_mean": 0.2,
            "population/multiple_choice_acc_max": 0.4,
            "population/multiple_choice_acc_min": 0.0,
            "population/retrieval_acc_mean": 0.1,
            "population/retrieval_acc_max": 0.2,
            "population/retrieval_acc_min": 0.0,
        }
    )
    best = tables["best_genome"]
    assert isinstance(best, Table)
    assert best.columns[:3] == ["block", "numeric_weight", "numeric_density"]
    assert [row[0] for row in best.rows] == list(setup.genome.knots)
    assert best.rows[1][1] == point(setup.genome, 4)["numeric/layers.4-7/weight"]
    assert all(0 < cell < 1 for row in tables["mean_std"].rows for cell in row[1:])


def test_a_run_is_stored_offline_and_resumed_under_its_id(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    url = "postgresql://u:Hidden77@h/d"
    monkeypatch.setattr(sys, "argv", ["run", "--storage", url, f"--storage={url}"])
    stored = setup.config.study.model_copy(update={"storage": url})
    config = setup.config.model_copy(update={"study": stored})
    setup = replace(setup, config=config.with_file(setup.config.file))
    study = optuna.create_study()
    for count in (5, 10):
        current, sent = tracker(setup, study)
        sender = Sender(Wandb("mine"), setup)
        sender.start(current.state["id"])
        current.log([trial(setup, i, i / 10) for i in range(count)])
        for numbers in sent:
            sender.send(numbers)
        sender.close()
        current.store()
    files = sorted((tmp_path / "runs" / "demo" / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {f"run-{current.state['id']}"}
    written = b"".join(path.read_bytes() for path in files)
    assert written.count(b"population/score_mean") >= 2
    metadata = (tmp_path / "runs" / "demo" / "wandb").rglob("*metadata.json")
    written += b"".join(path.read_bytes() for path in metadata)
    assert b"u:***@h" in written
    assert b"Hidden77" not in written
    for name in (b"trial/retrieval", b"best_genome", b"best_config", b"mean_std"):
        assert name in written


def test_errors_of_wandb_are_logged_and_do_not_end_the_study(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "runs").write_text("in the way")
    sender = Sender(Wandb(), setup)
    sender.start("some")
    sender.send({"evaluations": 1})
    sender.close()
    assert "logging to wandb has stopped: NotADirectoryError" in caplog.text
    current, sent = tracker(setup, optuna.create_study())
    current.log([trial(setup, 0, 0.1, **{GENERATION: "no number", SLOT: 0})])
    assert not sent
    current.log([trial(setup, i, 0.1) for i in range(4)])
    assert len(sent) == 4


def test_a_study_runs_without_a_login(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(
        "\n".join((DEMO / "questions" / "choice.jsonl").read_text().splitlines()[::150])
    )
    genome = {
        "models": [str(DEMO / "models" / name) for name in ("numeric", "relations")],
        "merge_method": "linear",
    }
    task = {"name": "t", "kind": "multiple_choice", "data": "q.jsonl", "prompt": "plain"}
    study = {"trials": 4, "population": 4, "held_out": 0}
    text = json.dumps({"genome": genome, "tasks": [task], "study": study})
    (tmp_path / "s.yaml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "WANDB_MODE": "online"}
    result = subprocess.run(
        [sys.executable, "-m", "study.run", "s.yaml", "--wandb"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "logging to wandb has stopped: PermissionError: not logged in" in result.stderr


def test_wandb_that_is_not_installed_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = CliRunner().invoke(application(run), [str(DEMO / "study.yaml"), "--wandb"])
    assert result.exit_code == 2
    assert "error: --wandb: wandb is not installed; pip install '.[wandb]'" in result.output
