"""The compose file: accepted by docker-compose, and its services run as processes."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.engine import make_url

from tests.support.commands import wait_for, wait_for_true, write_study
from tests.support.compose import Service, services
from tests.support.dashboard_server import Server
from tests.support.paths import ROOT

VARIABLES = {"POSTGRES_PASSWORD": "p", "STUDY_DASHBOARD_TOKEN": "t"}


def test_docker_compose_accepts_the_file() -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    result = subprocess.run(
        ["docker-compose", "config"],
        cwd=ROOT,
        env={**os.environ, **VARIABLES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    listed = yaml.safe_load(result.stdout)["services"]
    assert listed.keys() == {"postgres", "worker", "dashboard"}
    for name in ("postgres", "dashboard"):
        assert all(str(port).startswith("127.0.0.1:") for port in listed[name]["ports"])


def test_the_services_name_one_database_and_one_password() -> None:
    of = services(VARIABLES)
    for name in ("worker", "dashboard"):
        url = make_url(of[name].environment["STUDY_STORAGE"])
        assert url.host in of
        assert url.password is None
        assert url.database == of["postgres"].environment["POSTGRES_DB"]
        password = of[name].environment["PGPASSWORD"]
        assert password == of["postgres"].environment["POSTGRES_PASSWORD"] == "p"
    for missing in VARIABLES:
        with pytest.raises(KeyError, match=missing):
            services({name: text for name, text in VARIABLES.items() if name != missing})


def on_this_machine(service: Service, postgres: str) -> dict[str, str]:
    """Return the environment of a service, with its database on the server of the tests."""
    server = make_url(postgres)
    url = make_url(service.environment["STUDY_STORAGE"]).set(
        username=server.username, host=server.host, port=server.port, database=server.database
    )
    storage = {"STUDY_STORAGE": url.render_as_string(hide_password=False)}
    return {**os.environ, **service.environment, **storage, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_services_run_a_study_and_show_it(postgres: str, tmp_path: Path) -> None:
    def few(data: dict[str, Any]) -> None:
        data["study"] |= {"trials": 2}

    check_health(services(VARIABLES)["postgres"], postgres)
    write_study(tmp_path, few)
    of = services({**VARIABLES, "STUDY_FOLDER": str(tmp_path)})
    worker, dashboard = of["worker"], of["dashboard"]
    environment = on_this_machine(dashboard, postgres)

    early = subprocess.run(
        dashboard.words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert early.returncode == 2, "there is no study yet"
    assert "does not hold any study" in early.stderr
    assert dashboard.restart == "unless-stopped"

    running = subprocess.Popen(
        worker.words,
        cwd=tmp_path,
        env=on_this_machine(worker, postgres),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(running, postgres, 1)
        server = Server(dashboard.words, environment)
        try:
            password = base64.b64encode(b"anybody:t").decode()
            assert server.request("/api/studies")[0] == 401
            assert server.request("/dashboard", Authorization=f"Basic {password}")[0] == 200
            assert shown(server)["name"] == "demo"
            _, errors = running.communicate(timeout=300)
            assert running.returncode == 0, errors
            wait_for_true(lambda: finished_search_trials(shown(server)) == 2)
            assert "2 of 2 search trials" in shown(server)["note"]["body"]
        finally:
            server.close()
    finally:
        running.kill()
        running.communicate()
    assert list((tmp_path / "runs" / "demo").glob("merge-*"))


def check_health(service: Service, postgres: str) -> None:
    """Run the health check of the database, which the other services wait for."""
    kind, program, *words = service.health_check
    assert kind == "CMD"
    if shutil.which(program) is None:
        return
    server = make_url(postgres)
    words = [program, *words, f"--host={server.host}", f"--port={server.port or 5432}"]
    assert subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode == 0


def shown(server: Server) -> dict[str, Any]:
    """Return the study that the dashboard shows to a visitor who has the token."""
    status, body = server.request("/api/studies/1?after=0", Authorization="Bearer t")
    assert status == 200
    return dict(json.loads(body))


def finished_search_trials(study: dict[str, Any]) -> int:
    """Return the number of finished search trials, which alone have a slot. The dashboard reads
    the trials every few seconds."""
    return sum(
        trial["state"] == "Complete" and any(a["key"] == "slot" for a in trial["user_attrs"])
        for trial in study["trials"]
    )
