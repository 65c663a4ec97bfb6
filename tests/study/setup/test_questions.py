"""Reading the questions of a study file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from objectives.errors import TaskError
from objectives.tasks.questions.question_files import QuestionError
from study.config.errors import ConfigError
from study.config.load import load_config
from study.planning.data import Hardware
from study.planning.estimate import estimate
from study.setup.setup import build
from study.setup.tasks import MIN_HELD_OUT, native_tasks
from tests.support.paths import DEMO

LONG = {"input_field": "soap " * 400 + "\n0. a\n1. b", "output_field": 1}


def rows(count: int) -> list[dict[str, Any]]:
    lines = (DEMO / "questions/choice.jsonl").read_text().splitlines()[:count]
    keys = ("input_field", "output_field")
    return [{key: json.loads(line)[key] for key in keys} for line in lines]


def study(
    folder: Path, questions: list[Any], held_out: float = 0.3, file: str = "study.yaml", **task: Any
) -> Path:
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    entry = {"name": "mc", "kind": "multiple_choice", "data": "q.jsonl", "prompt": "plain"} | task
    genome = {"models": [f"{DEMO}/models/{name}" for name in ("numeric", "relations")]}
    genome |= {"base_model": f"{DEMO}/models/base", "merge_method": "task_arithmetic"}
    (folder / file).write_text(
        yaml.safe_dump({"genome": genome, "tasks": [entry], "study": {"held_out": held_out}})
    )
    return folder / file


def test_a_question_that_is_too_long_is_refused_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = study(tmp_path, [*rows(80), LONG])
    with pytest.raises(TaskError, match=r"q\.jsonl:81: the prompt has .*on_bad: skip"):
        build(load_config(path), check_values=False)
    setup = build(
        load_config(study(tmp_path, [*rows(80), LONG], on_bad="skip")), check_values=False
    )
    assert setup.search.questions + setup.held_out.questions == 80
    assert "q.jsonl:81: the prompt has" in caplog.text
    plain = build(load_config(study(tmp_path, rows(80))), check_values=False)
    assert (setup.search.digests(), setup.held_out.digests()) == (
        plain.search.digests(),
        plain.held_out.digests(),
    )


def test_a_task_whose_questions_are_all_too_long_is_refused(tmp_path: Path) -> None:
    path = study(
        tmp_path, [LONG, LONG | {"input_field": "b " + LONG["input_field"]}], 0, on_bad="skip"
    )
    with pytest.raises(TaskError, match="mc: all questions are too long for the models"):
        build(load_config(path), check_values=False)


@pytest.mark.parametrize(
    ("count", "held_out", "few"), [(40, 0.3, True), (80, 0, True), (150, 0.5, False)]
)
def test_a_warning_before_the_search_reports_too_few_held_out_questions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, held_out: float, few: bool
) -> None:
    path = study(tmp_path, rows(count), held_out)
    warnings = estimate(load_config(path), Hardware("h100", 1e11, 1)).warnings
    text = f"every task needs at least {MIN_HELD_OUT}"
    assert any(text in warning for warning in warnings) == few
    assert text not in caplog.text
    build(load_config(path), check_values=False, warn=True)
    assert (text in caplog.text) == few


@pytest.mark.parametrize("file", ["kitchen.yaml", "other.yaml"])
def test_a_study_file_is_not_read_as_a_task_file_of_the_same_name(
    tmp_path: Path, file: str
) -> None:
    study(tmp_path, rows(9), file="kitchen.yaml")
    text = (tmp_path / "kitchen.yaml").read_text()
    (tmp_path / file).write_text(yaml.safe_dump(yaml.safe_load(text) | {"tasks": ["kitchen"]}))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/kitchen.yaml").write_text(
        "kind: multiple_choice\ndata: ../q.jsonl\nprompt: plain\n"
    )
    [task] = load_config(tmp_path / file).tasks
    assert (task.name, task.kind) == ("kitchen", "multiple_choice")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": None}, "mc.kind: must be multiple_choice, retrieval or lm_eval"),
        ({"fields": {"question": "a"}}, "answer: is missing"),
        ({"fields": {"question": "a", "answer": "b", "first": 1}}, "fields.options is not set"),
        ({"fields": {"question": [], "answer": "b"}}, "question"),
        ({"fields": {"questoin": "a", "answer": "b"}}, "did you mean question"),
        ({"kind": "lm_eval", "data": None}, "needs kind: multiple_choice or retrieval"),
    ],
)
def test_an_invalid_task_section_is_refused_with_its_key(
    tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(study(tmp_path, rows(1), **task))


@pytest.mark.parametrize("inline", [True, False])
def test_fields_can_be_mapped_inline_or_in_a_task_file(tmp_path: Path, inline: bool) -> None:
    mapped = [{"q": row["input_field"], "a": row["output_field"]} for row in rows(20)]
    path = study(tmp_path, mapped)
    with pytest.raises(QuestionError, match=r"q\.jsonl:1: has no input_field; its fields are q, a"):
        native_tasks(load_config(path))
    path = study(tmp_path, mapped, fields={"question": "q", "answer": "a"})
    if not inline:
        data = yaml.safe_load(path.read_text())
        [task] = data["tasks"]
        (tmp_path / "mc.yaml").write_text(yaml.safe_dump(task))
        path.write_text(yaml.safe_dump(data | {"tasks": ["mc"]}))
    own = native_tasks(load_config(path))["mc"]
    assert own == native_tasks(load_config(study(tmp_path, rows(20))))["mc"]
