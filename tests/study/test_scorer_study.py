"""Tests of a study whose scorer fails: it fails trials as an engine does, and can be resumed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from objectives.errors import ScorerError, TaskError
from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from study.cli.interrupts import Interrupts
from study.config.errors import ConfigError
from study.config.load import load_config
from study.setup.engine import choose_engine
from study.setup.setup import build
from study.worker.join import join_study
from tests.support.lm_eval_files import study_text
from tests.support.paths import DEMO

TASK = """
task: judged
dataset_path: all.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{input_field}}"
doc_to_target: "{{output_field}}"
process_results: !function judge.of
generation_kwargs: {max_gen_toks: 1, until: []}
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
JUDGE = """
from pathlib import Path

FAILURES = Path(__file__).with_name("failures")


def of(doc, results):
    if FAILURES.exists() and doc["output_field"] == 2:
        left = int(FAILURES.read_text())
        FAILURES.write_text(str(left - 1))
        if left > 0:
            raise ConnectionError("the judge is unreachable")
    return {"right": results[0].strip() == str(doc["output_field"])}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = (DEMO / "questions" / "choice.jsonl").read_text().splitlines()
    (tmp_path / "all.jsonl").write_text("\n".join(lines[:: len(lines) // 12][:12]))
    (tmp_path / "judged.yaml").write_text(TASK + f"dataset_kwargs: {{cache_dir: {tmp_path}/c}}\n")
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def run(folder: Path, metric: str = "right,none", **task: object) -> Sequence[TrialRecord]:
    """Run a search of four trials; return all trials."""
    judged = {"name": "judged", "metric": metric, "scorer_retries": 0} | task
    section = {"trials": 4, "population": 4, "held_out": 0, "name": "judged"}
    path = folder / "study.yaml"
    path.write_text(study_text(judged, study=section))
    config, url = load_config(path, [folder], None), f"sqlite:///{folder}/study.db"
    setup = build(config, check_values=False)
    choice = choose_engine(config, "transformers")
    with join_study(setup, url, choice, Interrupts()) as worker:
        assert worker.search(math.inf)
    return trials(folder)


def trials(folder: Path) -> Sequence[TrialRecord]:
    database = open_storage(f"sqlite:///{folder}/study.db")
    return Trials(database, find_study(database, "judged")).all()


def test_a_trial_whose_scorer_fails_is_repeated(folder: Path) -> None:
    undisturbed = [r.value for r in run(folder)]
    (folder / "study.db").unlink()
    (folder / "failures").write_text("2")
    records = run(folder)
    failed = [r for r in records if not r.complete]
    assert len(failed) == 2
    for record in failed:
        reason = record.attributes["failure"]
        assert reason.startswith("ScorerError: judged: process_results of document 3 ('Pack of")
        assert reason.endswith("failed: ConnectionError: the judge is unreachable")
    assert [r.value for r in records if r.complete] == undisturbed


def test_three_failures_in_a_row_end_the_run_and_the_study_can_be_resumed(folder: Path) -> None:
    (folder / "failures").write_text("3")
    with pytest.raises(ScorerError, match=r"^3 trials failed in a row; .*judged: process_results"):
        run(folder)
    assert [r.state.name for r in trials(folder)] == ["FAIL"] * 3
    assert sum(r.complete for r in run(folder)) > 4


def test_a_missing_metric_fails_the_trial(folder: Path) -> None:
    with pytest.raises(TaskError, match=r"no metric exact; its process_results returns right"):
        run(folder, metric="exact,none")
    assert [r.state.name for r in trials(folder)] == ["FAIL"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scorer_concurrency", 0),
        ("scorer_timeout", 0),
        ("scorer_timeout", "soon"),
        ("scorer_retries", -1),
        ("scorer_retries", 1.5),
    ],
)
def test_invalid_settings_are_refused(folder: Path, key: str, value: object) -> None:
    path = folder / "study.yaml"
    path.write_text(study_text({"name": "judged", key: value}))
    with pytest.raises(ConfigError, match=rf"tasks.judged.{key}"):
        load_config(path, [folder])


def test_native_tasks_have_no_scorer_settings(folder: Path) -> None:
    native = {"name": "own", "kind": "multiple_choice", "data": "all.jsonl", "scorer_timeout": 5}
    path = folder / "study.yaml"
    path.write_text(json.dumps(json.loads(study_text(native))))
    with pytest.raises(ConfigError, match=r"own.scorer_timeout: is only used for tasks of lm-eval"):
        load_config(path)
