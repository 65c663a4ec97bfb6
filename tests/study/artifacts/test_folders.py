"""Tests of the folders under runs/NAME: no file of another study is replaced."""

import json
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import ExportError
from objectives.export.manifest import RECIPE_FILE, SUMS_FILE, write_manifest
from study.artifacts.folders import merge_folder, report_folder

IDENTITY, OTHER = "0123456789abcdef", "fedcba9876543210"
URL = "postgresql+psycopg2://u:secret@db.example/x"


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The folder of the report


def report_json(identity: str | None = IDENTITY, trials: int = 3) -> dict[str, Any]:
    values = [0.1 * number for number in range(trials)]
    scores = {"values": values, "generations": [0] * trials, "baselines": {"base": 0.5}}
    data: dict[str, Any] = {"study": "demo", "scores": scores}
    return data if identity is None else data | {"identity": identity}


def store(folder: Path, data: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(data if isinstance(data, str) else json.dumps(data))
    (folder / "index.html").write_text("a page")
    return folder


def test_a_report_replaces_an_earlier_one_of_the_same_study(cwd: Path) -> None:
    assert report_folder(cwd, report_json()) == cwd / "report"
    store(cwd / "report", report_json(trials=2))
    assert report_folder(cwd, report_json()) == cwd / "report"


def test_a_report_of_another_study_of_the_same_name_is_kept(
    cwd: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(cwd / "report", report_json(OTHER))
    assert report_folder(cwd, report_json()) == cwd / "report-01234567"
    assert "the report is written to" in caplog.text
    store(cwd / "report-01234567", report_json(IDENTITY, 1))
    assert report_folder(cwd, report_json()) == cwd / "report-01234567"


def test_a_report_without_an_identity_is_recognised_by_its_scores(cwd: Path) -> None:
    own = store(cwd / "report", report_json(None, 2))
    assert report_folder(cwd, report_json()) == own
    data = report_json(None, 2)
    data["scores"]["values"][1] += 1e-9
    (own / "report.json").write_text(json.dumps(data))
    assert report_folder(cwd, report_json()) != own


@pytest.mark.parametrize("data", ["", "[]", "{}", "[" * 100_000, '{"identity": null}', "7"])
def test_a_report_that_cannot_be_read_is_kept(cwd: Path, data: str) -> None:
    store(cwd / "report", data)
    assert report_folder(cwd, report_json()) == cwd / "report-01234567"


def test_an_unfinished_report_is_replaced(cwd: Path) -> None:
    (cwd / "report").mkdir()
    (cwd / "report" / "tasks.png").touch()
    (cwd / "report" / ".merge.png.part-7").touch()
    assert report_folder(cwd, report_json()) == cwd / "report"
    (cwd / "report" / "index.html").write_text("mine")
    assert report_folder(cwd, report_json()) == cwd / "report-01234567"


@pytest.mark.parametrize("obstacle", ["file", "broken link"])
def test_an_obstacle_is_an_error_or_moves_the_report(cwd: Path, obstacle: str) -> None:
    if obstacle == "file":
        (cwd / "report").write_text("a file")
        with pytest.raises(ExportError, match="cannot write"):
            report_folder(cwd, report_json())
    else:
        (cwd / "report").symlink_to("nowcwd")
        assert report_folder(cwd, report_json()) == cwd / "report-01234567"


# The folder of the merge


def export(folder: Path, **change: Any) -> Path:
    """Create a folder with the files that identify an export."""
    folder.mkdir()
    origin = {"study": "demo", "storage": "postgresql+psycopg2://u@db.example/x"} | change
    (folder / "study.json").write_text(json.dumps(origin))
    (folder / RECIPE_FILE).write_text(json.dumps({"recipe": {}, "sources": {}}))
    (folder / SUMS_FILE).write_text("")
    if "identity" in change:
        write_manifest(folder)
    return folder


def folder_name(cwd: Path) -> str:
    return merge_folder(cwd / "merge-7", IDENTITY, URL, "demo").name


def test_a_merge_replaces_an_earlier_one_of_the_same_study(cwd: Path) -> None:
    assert folder_name(cwd) == "merge-7"
    export(cwd / "merge-7", identity=IDENTITY)
    assert folder_name(cwd) == "merge-7"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "merge-7"),
        ({"study": "other"}, "merge-7-01234567"),
        ({"storage": "postgresql://u@db.example/y"}, "merge-7-01234567"),
        ({"storage": "no URL"}, "merge-7-01234567"),
        ({"storage": None}, "merge-7-01234567"),
        ({"identity": OTHER}, "merge-7-01234567"),
        ({"identity": None}, "merge-7-01234567"),
    ],
)
def test_a_merge_of_another_study_is_kept(cwd: Path, change: dict[str, Any], name: str) -> None:
    export(cwd / "merge-7", **change)
    assert folder_name(cwd) == name


def test_a_merge_folder_with_files_of_the_user_is_kept(cwd: Path) -> None:
    for number, name in enumerate(("merge-7", "merge-7-01234567", "merge-7-01234567-2"), 1):
        export(cwd / name, identity=IDENTITY)
        (cwd / name / "model.gguf").touch()
        assert (
            folder_name(cwd)
            == ("merge-7-01234567", "merge-7-01234567-2", "merge-7-01234567-3")[number - 1]
        )


def test_a_link_to_a_merge_is_kept(cwd: Path) -> None:
    export(cwd / "real", identity=IDENTITY)
    (cwd / "merge-7").symlink_to("real")
    assert folder_name(cwd) == "merge-7-01234567"
