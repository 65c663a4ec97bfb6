"""What verify takes from an exported folder, which may be a stranger's: words, and no addresses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import ExportError
from storage.errors import StorageError
from study.artifacts.origin import Origin, database_url, read_origin, study_file
from study.config.errors import ConfigError

STUDY = """\
genome: {models: [a, b], base_model: c, merge_method: linear}
tasks: [{name: t, kind: multiple_choice, data: q.jsonl}]
study: {name: demo%s}
"""


def write_study(folder: Path, more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    path.write_text(STUDY % more)
    return path


def write_folder(folder: Path, **change: Any) -> Path:
    data = {
        "study": "demo", "trial": 3, "config": "/nowhere/study.yaml",
        "storage": "postgresql://u@db.example/x", "questions": {"search": {"t": "0"}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(data | change))
    return folder


def url_of(folder: Path, config: Path | None = None, storage: str | None = None) -> str:
    origin = read_origin(folder)
    loaded = study_file(folder, origin, config, [])
    return database_url(folder, origin, loaded, storage, trusted=config is not None)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# study.json


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is not JSON"),
        ("[]", "study.json: : Input should be"),
        ("null", "Input should be"),
        ("[" * 100_000, "nested too deeply"),
        ('{"study": ' * 20_000, "nested too deeply"),
        ('{"study": 1e999}', "study.json: "),
        ("\xff", "is not JSON"),
        (b"\xff\xfe", "cannot read"),
        ("9" * 5000, "is not JSON"),
    ],
)
def test_a_study_json_that_is_none_is_a_message(
    tmp_path: Path, content: str | bytes, named: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "study.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExportError, match="does not say which study it is from") as refused:
        read_origin(folder)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trial", -1), ("trial", True), ("trial", 1.0), ("trial", "3"), ("trial", float("nan")),
        ("trial", None), ("study", 5), ("study", None), ("config", ["x"]), ("storage", {"a": 1}),
        ("questions", []), ("questions", {"search": []}), ("questions", {"search": {"t": 1}}),
        ("identity", 7),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ExportError, match=f"study.json: {key}"):
        read_origin(write_folder(tmp_path / "m", **{key: value}))


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "device", "huge"])
def test_a_study_json_that_is_no_small_file_is_a_message(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "m")
    path = folder / "study.json"
    if kind == "huge":
        os.truncate(path, 1 << 40)
    else:
        path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(ExportError, match="does not say which study it is from"):
        read_origin(folder)


# The study file


def test_the_study_file_that_the_folder_names_is_read_if_it_is_here(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=str(path))
    assert study_file(folder, read_origin(folder), None, []).name == "demo"


@pytest.mark.parametrize(
    "config",
    ["study.yaml", "../mine/study.yaml", "/nowhere/x.yaml", "/dev/stdin", "/dev/zero", "", "nul\0",
     "/" + "x" * 5000, "\x1b[2J", "{m}/loop", "{m}"],
)  # fmt: skip
def test_a_study_file_that_is_not_named_in_full_or_not_here_has_to_be_given(
    tmp_path: Path, here: Path, config: str
) -> None:
    write_study(here)
    write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=config.format(m=tmp_path / "m"))
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="is not here; give --config") as refused:
        study_file(folder, read_origin(folder), None, [])
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert study_file(folder, read_origin(folder), here / "study.yaml", []).name == "demo"


def test_a_study_file_that_came_with_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (tmp_path / "link").symlink_to("m")
    for path in (write_study(folder / "sub"), tmp_path / "link" / "sub" / "study.yaml"):
        write_folder(folder, config=str(path))
        with pytest.raises(ConfigError, match=r"came with .* itself; give --config"):
            study_file(folder, read_origin(folder), None, [])


def test_another_study_is_named_without_its_control_characters(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=str(path), study="other\x1b[2J" + "x" * 1000)
    with pytest.raises(ConfigError, match=r"is from study other\\x1b\[2Jxx.*, .* is demo") as error:
        study_file(folder, read_origin(folder), None, [])
    assert len(str(error.value)) < 600


# The database


def test_the_database_that_the_folder_names_is_never_opened(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    theirs = touch(tmp_path / "theirs.db")
    folder = write_folder(tmp_path / "m", config=str(path), storage=f"sqlite:///{theirs}")
    for config in (None, path):
        with pytest.raises(StorageError, match=r"theirs\.db, which is not opened .*--storage"):
            url_of(folder, config)
    assert url_of(folder, None, f"sqlite:///{theirs}") == f"sqlite:///{theirs}"


def test_a_local_study_is_found_where_a_run_keeps_it(tmp_path: Path, here: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "elsewhere" / "runs" / "demo" / "m", config=str(path))
    for place in (
        folder.parent / "study.db",
        path.parent / "runs" / "demo" / "study.db",
        here / "runs" / "demo" / "study.db",
    ):  # each comes before the ones above it
        touch(place)
        assert url_of(folder) == f"sqlite:///{place}"


def test_the_database_of_the_study_file_is_the_only_one(tmp_path: Path, here: Path) -> None:
    path = write_study(tmp_path / "mine", ", storage: sqlite:///mine.db")
    touch(here / "runs" / "demo" / "study.db")
    folder = write_folder(tmp_path / "m", config=str(path))
    with pytest.raises(StorageError, match=r"there is no database .*mine/mine\.db"):
        url_of(folder)
    touch(path.parent / "mine.db")
    assert url_of(folder) == f"sqlite:///{path.parent}/mine.db"


def test_a_server_is_only_asked_if_the_user_names_it_or_the_study_file(tmp_path: Path) -> None:
    """The study file may have come with the folder, in the same archive."""
    server = "postgresql://u@db.example/x"
    path = write_study(tmp_path / "mine", f", storage: '{server}'")
    folder = write_folder(tmp_path / "m", config=str(path))
    with pytest.raises(ConfigError, match=r"database is the server .*db\.example.*--config"):
        url_of(folder)
    assert "@db.example/x" in url_of(folder, path)
    assert "@other.example/y" in url_of(folder, None, "postgresql://u@other.example/y")


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("postgresql://u:hunter2@db.example/x", "postgresql"),
        ("postgresql://u:hunter2@db.example:port/x", ""),
        ("hunter2", ""),
        ("", ""),
        ("sqlite:///\x1b[2J", "sqlite:///"),
        ("sqlite:///" + "x" * 5000, "sqlite:///"),
    ],
)
def test_what_a_folder_names_is_shown_without_secrets(named: str, shown: str) -> None:
    origin = Origin(study="s", trial=0, config="", storage=named, questions={})
    assert origin.named_storage.startswith(shown)
    assert "hunter2" not in origin.named_storage
    assert "\x1b" not in origin.named_storage
    assert len(origin.named_storage) <= 200


# Which study it is


def test_studies_of_one_name_are_told_apart(database: str, tmp_path: Path) -> None:
    from storage.claims import Claims
    from storage.database.database import open_storage
    from storage.identity import study_identity
    from storage.studies import create_study

    identities = []
    for url in (database, f"sqlite:///{tmp_path}/other.db"):
        storage = open_storage(url)
        study = create_study(storage, "demo")
        assert study_identity(storage, study) is None
        Claims(storage, study._study_id, "me").start("it", {}, {}, {})
        identities.append(study_identity(storage, study))
        storage.engine.dispose()
        again = open_storage(url, create=False)
        assert study_identity(again, create_study(again, "demo")) == identities[-1]
        again.engine.dispose()
    assert None not in identities
    assert len({*identities}) == 2
