"""The dashboard as it is served: a real study, real requests."""

import base64
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.dashboard import post
from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from study.monitors.dashboard_figures import figures
from study.monitors.dashboard_note import note
from tests.support.commands import command, write_study
from tests.support.paths import ROOT
from tests.support.sleeping_study import NAME, run, tiny_config, tiny_dict, tiny_setup

TRIALS, POPULATION = 12, 5


class Served:
    """A server's process, and requests to it."""

    def __init__(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [*words, "--port", str(self.port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        while self.ask("/")[0] == 0:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.1)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Status and body; status 0 while nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers
        )
        if method in ("POST", "PUT"):
            request.data = b"{}"
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return 0, ""

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A config and the database of its finished study."""
    folder = tmp_path_factory.mktemp("shown")
    url = f"sqlite:///{folder}/study.db"
    assert run(url, tiny_config(TRIALS, POPULATION))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(TRIALS, POPULATION, wide=False)))
    return str(path), url


@pytest.fixture(scope="module")
def shown(study: tuple[str, str]) -> Iterator[Served]:
    config, url = study
    server = Served([sys.executable, "-m", "study.dashboard", config, "--storage", url])
    yield server
    server.close()


def detail(server: Served, **headers: str) -> dict[str, Any]:
    status, body = server.ask("/api/studies/1?after=0", **headers)
    assert status == 200
    return dict(json.loads(body))


def test_it_shows_the_study_with_its_note_and_figures(shown: Served) -> None:
    assert f'"study_name": "{NAME}"' in shown.ask("/api/studies")[1]
    found = detail(shown)
    assert len(found["trials"]) == TRIALS + 8 + 2
    body = found["note"]["body"]
    assert f"**{TRIALS} of {TRIALS} search trials**" in body
    assert "Best merge so far: trial " in body
    assert "| layers.0-3 | " in body
    assert "python -m study.run" in body
    ids = {plot["id"] for plot in found["plotly_graph_objects"]}
    assert ids == {"best-so-far", "population", "tasks"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/trials/1/tell"),
        ("PATCH", "/api/studies/1"),
        ("OPTIONS", "/api/studies/1"),
    ],
)
def test_whatever_could_change_it_is_refused(shown: Served, method: str, path: str) -> None:
    status, body = shown.ask(path, method)
    assert status == 403
    assert "only shows" in body
    assert detail(shown)["name"] == NAME


def test_a_token_is_asked_for_and_writing_can_be_allowed(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "tiny.yaml"
    assert run(url, tiny_config(1, POPULATION))
    path.write_text(yaml.safe_dump(tiny_dict(1, POPULATION, wide=False)))
    words = [sys.executable, "-m", "study.dashboard", str(path), "--storage", url, "--writable"]
    server = Served(words, {"STUDY_DASHBOARD_TOKEN": "sesame"})
    try:
        basic = base64.b64encode(b"anybody:sesame").decode()
        wrong = base64.b64encode(b"sesame:open").decode()
        for header in ("", "Bearer sesam", f"Basic {wrong}", "Basic %", "Digest sesame"):
            assert server.ask("/api/studies", Authorization=header)[0] == 401
            assert server.ask("/api/studies/1", "DELETE", Authorization=header)[0] == 401
        for header in ("Bearer sesame", f"Basic {basic}"):
            assert server.ask("/api/studies", Authorization=header)[0] == 200
        assert server.ask("/api/studies/1", "DELETE", Authorization="Bearer sesame")[0] == 204
    finally:
        server.close()


def test_stock_optuna_dashboard_shows_it_too(study: tuple[str, str]) -> None:
    server = Served([str(Path(sys.executable).with_name("optuna-dashboard")), study[1]])
    try:
        assert "search trials" in detail(server)["note"]["body"]
    finally:
        server.close()


def test_what_it_cannot_show_is_one_line(study: tuple[str, str], tmp_path: Path) -> None:
    config, url = study
    gone = command("dashboard", config, "--storage", f"sqlite:///{tmp_path}/no.db", folder=tmp_path)
    assert gone.returncode == 2
    assert "there is no database" in gone.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = command("dashboard", config, "--storage", url, "--port", port, folder=tmp_path)
    assert busy.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in busy.stderr


def test_the_note_shows_no_password_and_each_replaces_the_last(database: str) -> None:
    config = tiny_config(TRIALS, POPULATION)
    assert run(database, config)
    storage = open_storage(database)
    found = find_study(storage, NAME)
    records = Trials(storage, found).all()
    text = note(tiny_setup(config), records, POPULATION, "postgresql://u:secret@h/d")
    assert "secret" not in text
    assert "postgresql://u:***@h/d" in text
    post(storage, found, text + "x" * 9000, figures(records))
    post(storage, found, "short", {})
    from optuna_dashboard import get_note

    assert get_note(found) == "short"


def test_the_notes_command_keeps_a_budget_that_is_not_the_files() -> None:
    config = tiny_config(TRIALS, POPULATION)
    texts = [
        note(tiny_setup(c), [], POPULATION, "sqlite:///x.db") for c in (config, config.of_trials(7))
    ]
    assert "--trials" not in texts[0]
    assert "0 of 7 search trials" in texts[1]
    assert "--storage sqlite:///x.db --trials 7" in texts[1]
    again = note(
        tiny_setup(config.of_trials(7).of_trials(TRIALS)), [], POPULATION, "sqlite:///x.db"
    )
    assert again == texts[0]


def test_a_study_without_trials_has_a_note_and_no_figures() -> None:
    assert figures([]) == {}
    text = note(tiny_setup(tiny_config(TRIALS, POPULATION)), [], POPULATION, "sqlite:///x.db")
    assert f"**0 of {TRIALS} search trials**" in text
    assert "Best merge" not in text


# The compose file


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def test_compose_accepts_the_file() -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose here")
    environment = {**os.environ, "POSTGRES_PASSWORD": "p"}
    result = subprocess.run(
        ["docker-compose", "config"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    services = yaml.safe_load(result.stdout)["services"]
    assert services.keys() == {"postgres", "worker", "dashboard"}
    for name in ("postgres", "dashboard"):
        assert all(str(port).startswith("127.0.0.1:") for port in services[name]["ports"])


def test_the_commands_of_the_compose_file_run_a_study_that_the_dashboard_finds(
    postgres: str, tmp_path: Path
) -> None:
    def few(data: dict[str, Any]) -> None:
        data["study"] |= {"trials": 2}

    write_study(tmp_path, few)
    services = compose()["services"]
    # The password is not in the URL there: PGPASSWORD holds it.
    environment = {"STUDY_STORAGE": postgres, "OMP_NUM_THREADS": "1", "PGPASSWORD": "unused"}

    def words(service: str) -> list[str]:
        text = services[service]["command"].replace("/study/", f"{tmp_path}/")
        text = text.replace("${STUDY_CONFIG:-study.yaml}", "study.yaml")
        text = text.replace("${WORKERS:-1}", "1")
        python, *rest = shlex.split(text)
        assert python == "python"
        return [sys.executable, *rest]

    worker = subprocess.run(
        words("worker"),
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr
    server = Served(words("dashboard"), environment)
    try:
        assert detail(server)["name"] == "demo"
        assert "2 of 2 search trials" in detail(server)["note"]["body"]
    finally:
        server.close()
