"""The dashboard: HTTP requests to a server that shows a finished study."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, make_url, text

from storage.dashboard import post
from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from study.monitors.dashboard_figures import figures
from study.monitors.dashboard_note import note
from tests.support.commands import command
from tests.support.dashboard_server import Server
from tests.support.paths import ROOT
from tests.support.sleeping_study import NAME, run, tiny_config, tiny_dict, tiny_setup

TRIALS, POPULATION = 12, 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a config and the URL of the database with its finished study."""
    folder = tmp_path_factory.mktemp("study")
    url, config = f"sqlite:///{folder}/study.db", tiny_config(TRIALS, POPULATION)
    assert run(url, config)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(TRIALS, POPULATION, wide=False)))
    return str(path), url


@pytest.fixture(scope="module")
def server(study: tuple[str, str]) -> Iterator[Server]:
    config, url = study
    shown = Server([sys.executable, "-m", "study.dashboard", config, "--storage", url])
    yield shown
    assert shown.close() == "interrupted\n"  # no traceback after any request


def detail(server: Server, **headers: str) -> dict[str, Any]:
    status, body = server.request("/api/studies/1?after=0", **headers)
    assert status == 200
    return dict(json.loads(body))


def test_the_dashboard_shows_the_study_with_its_note_and_figures(server: Server) -> None:
    assert f'"study_name": "{NAME}"' in server.request("/api/studies")[1]
    study = detail(server)
    assert len(study["trials"]) == TRIALS + 8 + 2
    body = study["note"]["body"]
    assert f"**{TRIALS} of {TRIALS} search trials**" in body
    assert "Best merge so far: trial " in body
    assert "| layers.0-3 | " in body
    assert "python -m study.run" in body
    ids = {plot["id"] for plot in study["plotly_graph_objects"]}
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
def test_requests_that_change_the_study_are_refused(server: Server, method: str, path: str) -> None:
    status, body = server.request(path, method)
    assert status == 403
    assert "read-only" in body
    assert detail(server)["name"] == NAME


def test_a_token_is_required_and_writing_can_be_allowed(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "tiny.yaml"
    assert run(url, tiny_config(1, POPULATION))
    path.write_text(yaml.safe_dump(tiny_dict(1, POPULATION, wide=False)))
    words = [sys.executable, "-m", "study.dashboard", str(path), "--storage", url, "--writable"]
    words += ["--host", "0.0.0.0", "--allow-host", "Study.Example"]
    server = Server(words, {"STUDY_DASHBOARD_TOKEN": "sésame"})
    try:
        basic = base64.b64encode("anybody:sésame".encode()).decode()
        wrong = base64.b64encode(b"sesame:open").decode()
        for header in ("", "Bearer sesam", f"Basic {wrong}", "Basic %", "Basic \xff", "Digest x"):
            assert server.request("/api/studies", Authorization=header)[0] == 401
            assert server.request("/api/studies/1", "DELETE", Authorization=header)[0] == 401
        key = {"Authorization": f"Basic {basic}"}
        bearer = {"Authorization": "Bearer " + "sésame".encode().decode("latin-1")}
        for header in (key, bearer):
            assert server.request("/api/studies", **header)[0] == 200
        for host in ("192.0.2.7:8080", "[2001:db8::1]", socket.gethostname(), "study.example."):
            assert server.request("/api/studies", Host=host, **key)[0] == 200
        assert server.request("/api/studies", Host="foreign.example", **key)[0] == 403
        for origin in ("http://localhost:1", "https://foreign.example", "null", "x"):
            assert server.request("/api/studies/1", "DELETE", Origin=origin, **key)[0] == 403
        for site in ("cross-site", "same-site"):
            fetched = {"Sec-Fetch-Site": site, **key}
            assert server.request("/api/studies/1", "DELETE", **fetched)[0] == 403
        for body in (b"{", b"[1]", b"", b"[" * 100_000):
            assert server.request("/api/studies", "POST", body=body, **key)[0] == 400
        assert server.request("/api/trials/999/tell", "POST", **key)[0] == 404
        assert detail(server, **key)["name"] == NAME
        proxied = {"Host": "study.example", "Origin": "https://study.example", **key}
        assert server.request("/api/studies/1", "DELETE", **proxied)[0] == 204
    finally:
        assert server.close() == "interrupted\n"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1:1", "127.1.2.3", "[::1]:8080"]
)
def test_loopback_host_names_are_accepted(server: Server, host: str) -> None:
    assert server.request("/api/studies", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["foreign.example", "127.0.0.1.foreign.example", "192.0.2.7", "localhost@foreign.example", ""],
)
def test_unknown_host_names_are_refused(server: Server, host: str) -> None:
    assert server.request("/api/studies", Host=host)[0] == 403
    assert server.request("/dashboard", Host=host)[0] == 403


def test_requests_from_pages_of_other_sites_are_refused(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert server.request("/api/studies", Origin=f"http://{own}")[0] == 200
    assert server.request("/api/studies", Origin="http://foreign.example")[0] == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/bundle.js", 200),
        ("/static/nothing.js", 404),
        ("/static/../index.html", 403),
        ("/static/..%2f..%2f_app.py", 403),
        ("/static/%00", 400),
        ("/static/%ff", 400),
        ("/%zz", 404),
        ("/api/studies/1?after=x", 400),
        ("/api/studies/1?after=-1", 400),
        ("/api/studies/2", 404),
        ("/api/studies/" + "9" * 5000, 404),
        ("/api/studies/-1/plot/contour", 404),
        ("/csv/99999999999999999999", 404),
        ("/artifacts/1/1/ab", 400),
        ("/api/studies/1/plot/pareto_front", 400),
        ("/api/studies/1/plot/pareto_front/", 400),
        ("/api/studies/1/plot/slice", 200),
        ("/favicon.ico", 200),
    ],
)
def test_an_invalid_request_is_not_a_server_error(server: Server, path: str, status: int) -> None:
    assert server.request(path)[0] == status


@contextlib.contextmanager
def outage(url: str, postgres_server: str) -> Iterator[None]:
    """Make a database unusable for the processes that have opened it, within this context."""
    name, is_sqlite = make_url(url).database, url.startswith("sqlite")
    admin = create_engine(url if is_sqlite else postgres_server, isolation_level="AUTOCOMMIT")
    away = "ALTER TABLE studies RENAME TO away"
    back = "ALTER TABLE away RENAME TO studies"
    if not is_sqlite:
        away = f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"
        back = f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
    with admin.connect() as connection:
        connection.execute(text(away))
        if not is_sqlite:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(text(end), {"name": name})
        yield
        connection.execute(text(back))
    admin.dispose()


def test_an_outage_of_the_database_is_503_and_ends(
    database: str, postgres_server: str, tmp_path: Path
) -> None:
    assert run(database, tiny_config(1, POPULATION))
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(1, POPULATION, wide=False)))
    server = Server([sys.executable, "-m", "study.dashboard", str(path), "--storage", database])
    paths = ("/api/studies", "/api/studies/1", "/api/studies/1/plot/edf", "/csv/1")
    try:
        assert [server.request(p)[0] for p in paths] == [200] * len(paths)
        with outage(database, postgres_server):
            for p in paths:
                status, body = server.request(p)
                assert (status, body) == (503, '{"reason": "the database is unavailable"}\n')
            assert server.request("/dashboard")[0] == 200
        assert [server.request(p)[0] for p in paths] == [200] * len(paths)
    finally:
        *failures, last = server.close().splitlines()
    assert last == "interrupted"
    assert len(failures) == len(paths)
    assert all("a request failed: the database failed: " in line for line in failures)


def test_a_moved_or_replaced_database_file_is_503_until_it_is_back(
    study: tuple[str, str], tmp_path: Path
) -> None:
    file, away = tmp_path / "study.db", tmp_path / "away.db"
    shutil.copy(make_url(study[1]).database or "", file)
    words = [sys.executable, "-m", "study.dashboard", study[0], "--storage", f"sqlite:///{file}"]
    server = Server(words)
    paths = ("/api/studies", "/api/studies/1", "/csv/1")
    try:
        assert [server.request(p)[0] for p in paths] == [200] * len(paths)
        file.rename(away)
        assert [server.request(p)[0] for p in paths] == [503] * len(paths)
        shutil.copy(away, file)
        assert [server.request(p)[0] for p in paths] == [503] * len(paths)
        assert server.request("/dashboard")[0] == 200
        away.rename(file)
        assert [server.request(p)[0] for p in paths] == [200] * len(paths)
    finally:
        *failures, last = server.close().splitlines()
    assert last == "interrupted"
    assert len(failures) == 2 * len(paths)
    assert all(f"{file} was moved, removed or replaced; restore" in line for line in failures)


def test_malformed_requests_get_a_client_error(server: Server) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n",
        b"POST /api/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n",
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET /api/studies HTTP/1.0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(request)
            assert b" 4" in client.recv(100)[:12]


def test_responses_cannot_be_framed_and_their_scripts_run(server: Server) -> None:
    for path in ("/dashboard", "/static/bundle.js", "/api/studies", "/static/nothing.js"):
        headers = server.headers(path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert (
        "script-src 'self' 'unsafe-eval'" in server.headers("/dashboard")["Content-Security-Policy"]
    )
    assert "javascript" in server.headers("/static/bundle.js")["Content-Type"]


def test_html_in_notes_is_not_rendered(server: Server) -> None:
    """The page renders HTML in notes only if the server allows it."""
    assert '"allow_unsafe": false' in server.request("/api/meta")[1]


@pytest.mark.parametrize(
    ("words", "environment", "reason"),
    [
        (["--token", ""], {}, "--token is empty"),
        (["--token", " "], {}, "--token is empty"),
        ([], {"STUDY_DASHBOARD_TOKEN": ""}, "STUDY_DASHBOARD_TOKEN is empty"),
        (["--host", "0.0.0.0"], {}, "set a password with --token"),
        (["--host", "::"], {}, "set a password with --token"),
        (["--host", "no.such.host.invalid"], {}, "neither an IP address nor a host name"),
        (["--host", ""], {}, "neither an IP address nor a host name"),
        (["--host", "a" * 300], {}, "neither an IP address nor a host name"),
        (["--host", "192.0.2.7", "--token", "x"], {}, "cannot listen on 192.0.2.7"),
        (["--allow-host", "https://x.example"], {}, "without scheme and port"),
    ],
)
def test_unsafe_and_invalid_options_are_refused(
    study: tuple[str, str], words: list[str], environment: dict[str, str], reason: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "study.dashboard", study[0], "--storage", study[1], *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_optuna_dashboard_alone_shows_the_note_too(study: tuple[str, str]) -> None:
    server = Server([str(Path(sys.executable).with_name("optuna-dashboard")), study[1]])
    try:
        assert "search trials" in detail(server)["note"]["body"]
    finally:
        server.close()


def test_a_missing_database_and_a_port_in_use_are_errors_of_one_line(
    study: tuple[str, str], tmp_path: Path
) -> None:
    config, url = study
    missing = command(
        "dashboard", config, "--storage", f"sqlite:///{tmp_path}/no.db", folder=tmp_path
    )
    assert missing.returncode == 2
    assert "there is no database" in missing.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = command("dashboard", config, "--storage", url, "--port", port, folder=tmp_path)
    assert busy.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in busy.stderr


def test_a_note_shows_no_password_and_replaces_the_last_note(database: str) -> None:
    config = tiny_config(TRIALS, POPULATION)
    assert run(database, config)
    storage = open_storage(database)
    study = find_study(storage, NAME)
    records = Trials(storage, study).all()
    words = note(tiny_setup(config), records, POPULATION, "postgresql://u:secret@h/d")
    assert "secret" not in words
    assert "postgresql://u:***@h/d" in words
    post(storage, study, words + "x" * 9000, figures(records))
    post(storage, study, "short", {})
    from optuna_dashboard import get_note

    assert get_note(study) == "short"


def test_the_command_in_the_note_has_a_budget_that_differs_from_the_file() -> None:
    config = tiny_config(TRIALS, POPULATION)
    texts = [
        note(tiny_setup(c), [], POPULATION, "sqlite:///x.db")
        for c in (config, config.with_trials(7))
    ]
    assert "--trials" not in texts[0]
    assert "0 of 7 search trials" in texts[1]
    assert "--storage sqlite:///x.db --trials 7" in texts[1]
    again = note(
        tiny_setup(config.with_trials(7).with_trials(TRIALS)), [], POPULATION, "sqlite:///x.db"
    )
    assert again == texts[0]


def test_a_study_without_trials_has_a_note_and_no_figures() -> None:
    assert figures([]) == {}
    words = note(tiny_setup(tiny_config(TRIALS, POPULATION)), [], POPULATION, "sqlite:///x.db")
    assert f"**0 of {TRIALS} search trials**" in words
    assert "Best merge" not in words
