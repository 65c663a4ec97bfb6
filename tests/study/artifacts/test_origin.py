"""Tests that `study.verify` does not trust the origin that an exported folder names."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import ExportError
from storage.errors import StorageError
from study.artifacts.origin import Origin, database_url, read_origin, study_file, verify_lines
from study.config.errors import ConfigError
from study.config.load import load_config, study_url

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
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


# study.json


@pytest.mark.parametrize(
    ("content", "reason"),
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
def test_an_invalid_study_json_is_an_error(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "study.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExportError, match=r"has no valid study\.json") as error:
        read_origin(folder)
    assert reason in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trial", -1), ("trial", True), ("trial", 1.0), ("trial", "3"), ("trial", float("nan")),
        ("trial", None), ("study", 5), ("study", None), ("config", ["x"]), ("storage", {"a": 1}),
        ("questions", []), ("questions", {"search": []}), ("questions", {"search": {"t": 1}}),
        ("identity", 7),
    ],
)  # fmt: skip
def test_the_error_names_a_value_of_the_wrong_type(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ExportError, match=f"study.json: {key}"):
        read_origin(write_folder(tmp_path / "m", **{key: value}))


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "device", "huge"])
def test_a_study_json_that_is_not_a_small_file_is_an_error(tmp_path: Path, kind: str) -> None:
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
    with pytest.raises(ExportError, match=r"has no valid study\.json"):
        read_origin(folder)


# The study file


def test_the_study_file_that_the_folder_names_is_read_if_it_exists(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=str(path))
    assert study_file(folder, read_origin(folder), None, []).name == "demo"


@pytest.mark.parametrize(
    "config",
    ["study.yaml", "../mine/study.yaml", "/nowhere/x.yaml", "/dev/stdin", "/dev/zero", "", "nul\0",
     "/" + "x" * 5000, "\x1b[2J", "{m}/loop", "{m}"],
)  # fmt: skip
def test_a_study_file_needs_config_if_its_path_is_relative_or_missing(
    tmp_path: Path, cwd: Path, config: str
) -> None:
    write_study(cwd)
    write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=config.format(m=tmp_path / "m"))
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="does not exist here; set --config") as error:
        study_file(folder, read_origin(folder), None, [])
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 500
    assert study_file(folder, read_origin(folder), cwd / "study.yaml", []).name == "demo"


def test_a_study_file_inside_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (tmp_path / "link").symlink_to("m")
    for path in (write_study(folder / "sub"), tmp_path / "link" / "sub" / "study.yaml"):
        write_folder(folder, config=str(path))
        with pytest.raises(ConfigError, match=r"is inside .*; set --config"):
            study_file(folder, read_origin(folder), None, [])


def test_a_study_file_behind_a_link_is_not_read(tmp_path: Path, cwd: Path) -> None:
    """Its maker may own it: an archive can hold the folder, a study file and a database."""
    write_study(cwd)
    write_study(tmp_path / "mine")
    (tmp_path / "link").symlink_to("mine")
    for path in ("/proc/self/cwd/study.yaml", str(tmp_path / "link" / "study.yaml")):
        folder = write_folder(tmp_path / "m", config=path)
        with pytest.raises(ConfigError, match="is a path with links; set --config"):
            study_file(folder, read_origin(folder), None, [])


def test_the_error_about_another_study_escapes_control_characters(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "m", config=str(path), study="other\x1b[2J" + "x" * 1000)
    with pytest.raises(ConfigError, match=r"is from study other\\x1b\[2Jxx.*, .* is demo") as error:
        study_file(folder, read_origin(folder), None, [])
    assert len(str(error.value)) < 600


# The database


def test_the_database_that_the_folder_names_is_never_opened(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    foreign = touch(tmp_path / "foreign.db")
    folder = write_folder(tmp_path / "m", config=str(path), storage=f"sqlite:///{foreign}")
    for config in (None, path):
        with pytest.raises(StorageError, match=r"foreign\.db, which is not opened .*--storage"):
            url_of(folder, config)
    assert url_of(folder, None, f"sqlite:///{foreign}") == f"sqlite:///{foreign}"


def test_the_default_database_of_a_run_is_found(tmp_path: Path, cwd: Path) -> None:
    path = write_study(tmp_path / "mine")
    folder = write_folder(tmp_path / "elsewhere" / "runs" / "demo" / "m", config=str(path))
    for path_of_database in (
        folder.parent / "study.db",
        path.parent / "runs" / "demo" / "study.db",
        cwd / "runs" / "demo" / "study.db",
    ):  # each is preferred to the ones above it
        touch(path_of_database)
        assert url_of(folder) == f"sqlite:///{path_of_database}"


def test_only_the_database_of_the_study_file_is_used_if_it_sets_one(
    tmp_path: Path, cwd: Path
) -> None:
    path = write_study(tmp_path / "mine", ", storage: sqlite:///mine.db")
    touch(cwd / "runs" / "demo" / "study.db")
    folder = write_folder(tmp_path / "m", config=str(path))
    with pytest.raises(StorageError, match=r"there is no database .*mine/mine\.db"):
        url_of(folder)
    touch(path.parent / "mine.db")
    assert url_of(folder) == f"sqlite:///{path.parent}/mine.db"


def test_a_server_is_connected_only_if_the_user_names_it_or_the_study_file(tmp_path: Path) -> None:
    """The study file may be from the same archive as the folder."""
    server = "postgresql://u@db.example/x"
    path = write_study(tmp_path / "mine", f", storage: '{server}'")
    folder = write_folder(tmp_path / "m", config=str(path))
    with pytest.raises(ConfigError, match=r"database is the server .*db\.example.*--config"):
        url_of(folder)
    assert "@db.example/x" in url_of(folder, path)
    assert "@other.example/y" in url_of(folder, None, "postgresql://u@other.example/y")


@pytest.mark.parametrize(
    ("in_file", "option", "in_environment", "words"),
    [
        (None, None, None, []),
        ("sqlite:///mine.db", None, None, []),
        ("postgresql://u@db.example/x", None, None, ["--config"]),
        ("postgresql://u@db.example/x", None, "postgresql://u@db.example/y", []),
        (None, "sqlite:///other.db", None, ["--storage"]),
        (None, "sqlite:///other.db", "postgresql://u@db.example/y", ["--storage"]),
        (None, "postgresql://u@db.example/x", None, ["--storage"]),
    ],
)
def test_the_printed_command_verifies_with_the_database_of_the_study(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_file: str | None,
    option: str | None,
    in_environment: str | None,
    words: list[str],
) -> None:
    path = write_study(tmp_path / "mine", f", storage: '{in_file}'" if in_file else "")
    if in_environment:
        monkeypatch.setenv("STUDY_STORAGE", in_environment)
    config = load_config(path)
    url = study_url(config, option or in_environment)
    if url.startswith("sqlite:///"):
        touch(Path(url.removeprefix("sqlite:///")))
    folder = write_folder(tmp_path / "m", config=str(path))
    [line] = verify_lines(folder, config, url)
    verify = shlex.split(line.removeprefix("next: "))
    folder_word, *options = verify[verify.index("study.verify") + 1 :]
    assert folder_word == str(folder)
    assert options[::2] == words
    given = dict(zip(options[::2], options[1::2], strict=True))
    named = Path(given["--config"]) if "--config" in given else None
    assert url_of(folder, named, given.get("--storage", in_environment)) == url


def test_the_printed_command_has_no_password_and_says_so(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    lines = verify_lines(tmp_path / "m", load_config(path), "postgresql://u:hunter2@db.example/x")
    assert lines[0].endswith("--storage 'postgresql://u:***@db.example/x'")
    assert lines[1] == "  (with the password instead of ***)"


@pytest.mark.parametrize(
    ("storage", "start"),
    [
        ("postgresql://u:hunter2@db.example/x", "postgresql"),
        ("postgresql://u:hunter2@db.example:port/x", ""),
        ("hunter2", ""),
        ("", ""),
        ("sqlite:///\x1b[2J", "sqlite:///"),
        ("sqlite:///" + "x" * 5000, "sqlite:///"),
    ],
)
def test_the_database_that_a_folder_names_is_displayed_without_secrets(
    storage: str, start: str
) -> None:
    origin = Origin(study="s", trial=0, config="", storage=storage, questions={})
    assert origin.named_storage.startswith(start)
    assert "hunter2" not in origin.named_storage
    assert "\x1b" not in origin.named_storage
    assert len(origin.named_storage) <= 200


# The identity of a study


def test_studies_of_the_same_name_have_different_identities(database: str, tmp_path: Path) -> None:
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
        reopened = open_storage(url, create=False)
        assert study_identity(reopened, create_study(reopened, "demo")) == identities[-1]
        reopened.engine.dispose()
    assert None not in identities
    assert len({*identities}) == 2
