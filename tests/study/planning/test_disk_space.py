"""What a study writes under runs/NAME: looked at before it starts, and never over another's."""

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import ExportError
from objectives.export.manifest import RECIPE_FILE, SUMS_FILE, write_manifest
from objectives.models.header import merged_bytes
from study.artifacts.folders import merge_place, report_place
from study.config.load import load_config
from study.config.schema import StudyConfig
from study.planning.disk_space import check_room
from study.reporting.page import write_report
from study.search.history import ScoreHistory
from tests.support.paths import DEMO
from tests.support.reports import judgement, report

IDENTITY, OTHER = "0123456789abcdef", "fedcba9876543210"
URL = "postgresql+psycopg2://u:secret@db.example/x"


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    return load_config(DEMO / "study.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(config: StudyConfig, name: str) -> StudyConfig:
    study = config.study.model_copy(update={"name": name})
    return config.model_copy(update={"study": study})


# Before a study starts


def test_a_check_leaves_nothing(config: StudyConfig, here: Path) -> None:
    check_room(config)
    assert os.listdir(here) == []
    (here / "runs" / "demo").mkdir(parents=True)
    (here / "runs" / "demo" / "study.db").touch()
    check_room(config)
    assert os.listdir(here / "runs" / "demo") == ["study.db"]


@pytest.mark.parametrize("file", ["runs", "runs/demo", "runs/demo/report"])
@pytest.mark.parametrize("what", ["file", "pipe", "dead link", "loop"])
def test_what_is_in_the_way_is_said(config: StudyConfig, here: Path, file: str, what: str) -> None:
    path = here / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "file":
        path.write_text("a file")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if what == "loop" else "nowhere")
    with pytest.raises(ExportError, match=r"results cannot be written to .*runs/demo: ") as refused:
        check_room(config)
    assert "run in another folder" in str(refused.value)
    assert os.path.lexists(path)


def test_a_name_that_is_too_long_for_a_folder_is_said(config: StudyConfig, here: Path) -> None:
    with pytest.raises(ExportError, match="File name too long"):
        check_room(named(config, "x" * 256))
    assert os.listdir(here) == []
    check_room(named(config, "x" * 255))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_said(config: StudyConfig, here: Path) -> None:
    here.chmod(0o500)
    try:
        with pytest.raises(ExportError, match="Permission denied"):
            check_room(config)
    finally:
        here.chmod(0o700)


def test_a_full_disk_is_said(config: StudyConfig, here: Path) -> None:
    """A limit on the size of files stands for it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="File too large"):
            check_room(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(here) == []


def test_a_merge_without_room_is_a_warning(
    config: StudyConfig, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_room(config)
    assert not caplog.records
    (here / "m").mkdir()
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4]}})
    data = len(header).to_bytes(8, "little") + header.encode()
    (here / "m" / "model.safetensors").write_bytes(data)
    genome = config.genome.model_copy(update={"base_model": str(here / "m")})
    check_room(config.model_copy(update={"genome": genome}))
    assert "the final merge takes 2000000.00 GB" in caplog.text


def test_the_size_of_a_merge_is_known_from_headers(here: Path) -> None:
    model = DEMO / "models" / "base"
    size = merged_bytes("models/base", DEMO)
    assert size is not None
    assert size == pytest.approx((model / "model.safetensors").stat().st_size, rel=0.1)
    for name, content in {"a": b"", "b": b"\xff" * 8, "c": b"\x02" + bytes(7) + b"[]"}.items():
        (here / name).mkdir()
        (here / name / "model.safetensors").write_bytes(content)
        assert merged_bytes(name, here) is None
    for name in ("nowhere", "a\0b", "x" * 5000, "a+b+c", ""):
        assert merged_bytes(name, here) is None


# Where the report goes


def found(identity: str | None = IDENTITY, trials: int = 3) -> dict[str, Any]:
    values = [0.1 * number for number in range(trials)]
    scores = {"values": values, "generations": [0] * trials, "baselines": {"base": 0.5}}
    data: dict[str, Any] = {"study": "demo", "scores": scores}
    return data if identity is None else data | {"identity": identity}


def store(folder: Path, data: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(data if isinstance(data, str) else json.dumps(data))
    (folder / "index.html").write_text("a page")
    return folder


def test_a_report_takes_the_place_of_the_same_study_s(here: Path) -> None:
    assert report_place(here, found()) == here / "report"
    store(here / "report", found(trials=2))
    assert report_place(here, found()) == here / "report"


def test_a_report_of_another_study_of_the_name_stays(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(here / "report", found(OTHER))
    assert report_place(here, found()) == here / "report-01234567"
    assert "report goes to" in caplog.text
    store(here / "report-01234567", found(IDENTITY, 1))
    assert report_place(here, found()) == here / "report-01234567"


def test_a_report_of_an_earlier_version_is_told_by_its_scores(here: Path) -> None:
    ours = store(here / "report", found(None, 2))
    assert report_place(here, found()) == ours
    data = found(None, 2)
    data["scores"]["values"][1] += 1e-9
    (ours / "report.json").write_text(json.dumps(data))
    assert report_place(here, found()) != ours


@pytest.mark.parametrize("data", ["", "[]", "{}", "[" * 100_000, '{"identity": null}', "7"])
def test_a_report_that_cannot_be_read_stays(here: Path, data: str) -> None:
    store(here / "report", data)
    assert report_place(here, found()) == here / "report-01234567"


def test_a_report_that_was_never_finished_is_written_anew(here: Path) -> None:
    (here / "report").mkdir()
    (here / "report" / "tasks.png").touch()
    (here / "report" / ".merge.png.part-7").touch()
    assert report_place(here, found()) == here / "report"
    (here / "report" / "index.html").write_text("mine")
    assert report_place(here, found()) == here / "report-01234567"


@pytest.mark.parametrize("what", ["file", "dead link"])
def test_a_report_without_a_place_is_a_message_or_goes_elsewhere(here: Path, what: str) -> None:
    if what == "file":
        (here / "report").write_text("a file")
        with pytest.raises(ExportError, match="cannot write"):
            report_place(here, found())
    else:
        (here / "report").symlink_to("nowhere")
        assert report_place(here, found()) == here / "report-01234567"


def test_a_report_is_written_whole_or_not_at_all(here: Path) -> None:
    nothing = ScoreHistory([], [], {}, [])
    verdict = replace(judgement("x"), contenders=[], comparisons=[])
    data = replace(report("x"), scores=nothing, verdict=verdict, merge=None, importance=None)
    write_report(data, here / "report")
    before = {path: path.read_bytes() for path in (here / "report").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="cannot write the report"):
            write_report(replace(data, study="y"), here / "report")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in (here / "report").iterdir()} == before


# Where the merge goes


def export(folder: Path, **change: Any) -> Path:
    """An exported folder, as far as its files tell."""
    folder.mkdir()
    origin = {"study": "demo", "storage": "postgresql+psycopg2://u@db.example/x"} | change
    (folder / "study.json").write_text(json.dumps(origin))
    (folder / RECIPE_FILE).write_text(json.dumps({"recipe": {}, "sources": {}}))
    (folder / SUMS_FILE).write_text("")
    if "identity" in change:
        write_manifest(folder)
    return folder


def place(here: Path) -> str:
    return merge_place(here / "merge-7", IDENTITY, URL, "demo").name


def test_a_merge_takes_the_place_of_the_same_study_s(here: Path) -> None:
    assert place(here) == "merge-7"
    export(here / "merge-7", identity=IDENTITY)
    assert place(here) == "merge-7"


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
def test_a_merge_of_another_study_stays(here: Path, change: dict[str, Any], name: str) -> None:
    export(here / "merge-7", **change)
    assert place(here) == name


def test_a_merge_with_files_of_the_user_s_stays(here: Path) -> None:
    for number, usual in enumerate(("merge-7", "merge-7-01234567", "merge-7-01234567-2"), 1):
        export(here / usual, identity=IDENTITY)
        (here / usual / "model.gguf").touch()
        assert (
            place(here)
            == ("merge-7-01234567", "merge-7-01234567-2", "merge-7-01234567-3")[number - 1]
        )


def test_a_merge_behind_a_link_stays(here: Path) -> None:
    export(here / "real", identity=IDENTITY)
    (here / "merge-7").symlink_to("real")
    assert place(here) == "merge-7-01234567"
