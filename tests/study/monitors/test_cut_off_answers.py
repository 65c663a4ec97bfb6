"""Answers that reach max_tokens are counted, and shown wherever a user looks."""

import json
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from storage.trials import TrialRecord
from study.monitors.cut_off_answers import cut_off_shares
from tests.support.commands import command, write_study

URL = "sqlite:///study.db"


def test_cut_off_answers_are_in_the_log_the_status_and_the_report(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["tasks"][1]["max_tokens"] = 2
        data["study"] |= {"trials": 4}

    file = write_study(tmp_path, change)
    done = command("run", file, "--storage", URL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = command("status", file, "--storage", URL, folder=tmp_path)
    state = json.loads(command("status", file, "--storage", URL, "--json", folder=tmp_path).stdout)
    report = tmp_path / "runs" / "demo" / "report"
    data = json.loads((report / "report.json").read_text())
    texts = done.stdout, done.stderr, shown.stdout, (report / "index.html").read_text()
    for text in texts:
        assert "reach max_tokens before they are complete (retrieval: " in text
    assert done.stderr.count("reach max_tokens") == 1
    assert data["cut_off"] == state["cut_off"]
    assert data["cut_off"]["retrieval"]["share"] > 0.5
    assert "multiple_choice" not in data["cut_off"]


def record(number: int, cut_off: dict[str, list[int]]) -> TrialRecord:
    result = {"cut_off": cut_off} if cut_off else {}
    return TrialRecord(number, number, TrialState.COMPLETE, {}, 0.5, {"result": result})


def test_a_task_is_named_beyond_two_percent_with_its_worst_trial() -> None:
    records = [record(0, {}), record(1, {"a": [2, 100], "b": [3, 100]}), record(2, {"b": [9, 100]})]
    shares = cut_off_shares(records)
    assert {task: (share.share, share.trial) for task, share in shares.items()} == {"b": (0.09, 2)}
