"""Unusable databases and damaged data: each error message contains the remedy."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from storage.database import connections
from storage.database.database import open_storage
from storage.database.retry import is_transient
from storage.database.rights import check_rights
from storage.errors import StorageError
from storage.scores import SEARCH, ScoreStore
from storage.studies import (
    create_study,
    find_study,
    store_or_check_fingerprint,
    stored_budget,
    stored_fingerprint,
    stored_verdict,
)
from storage.trials import Trials
from study.cli.session import application, reporting_errors
from study.run import run
from tests.support.sleeping_study import tiny_dict
from tests.support.stored_trials import new, random_scores, trial


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


@pytest.fixture
def user(postgres: str) -> Iterator[str]:
    """The URL of the database for a user without privileges."""
    name = f"reader_{uuid.uuid4().hex[:12]}"
    execute(postgres, f"CREATE ROLE {name} LOGIN", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    execute(postgres, f"GRANT USAGE ON SCHEMA public TO {name}")
    try:
        yield make_url(postgres).set(username=name).render_as_string(hide_password=False)
    finally:
        execute(postgres, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@contextlib.contextmanager
def encoded(server: str, encoding: str) -> Iterator[str]:
    name = f"study_{uuid.uuid4().hex}"
    form = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    execute(server, f"CREATE DATABASE {name} {form}")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


# Checks at the start of a run


def test_check_rights_leaves_nothing_in_the_database(database: str, tmp_path: Path) -> None:
    check_rights(database, ["s", "模型"])
    if database.startswith("sqlite"):
        assert not list(tmp_path.iterdir())
    else:
        assert tables(database) == set()
    trials, claims = new(database)
    trial(claims)
    before = tables(database)
    check_rights(database, ["s"])
    assert tables(database) == before
    assert len(trials.all()) == 1
    assert trial(claims, "next") == trials.all()[0].id + 1  # no id was used up


def test_a_user_without_privileges_is_told_which_are_missing(user: str, postgres: str) -> None:
    with pytest.raises(StorageError, match=r"permission denied.*CREATE on the schema"):
        check_rights(user)
    with pytest.raises(StorageError, match="permission denied"):
        open_storage(user)
    new(postgres)
    name = make_url(user).username
    execute(postgres, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    with pytest.raises(StorageError, match=r"may not write to \w+, .*; grant SELECT, INSERT"):
        check_rights(user)
    execute(postgres, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    with pytest.raises(StorageError, match=r"may not write to \w+_seq"):
        check_rights(user)
    execute(postgres, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}")
    check_rights(user)
    trial(new(user, "second")[1])


def test_a_user_who_may_only_read_can_read_a_study(user: str, postgres: str) -> None:
    _, claims = new(postgres)
    trial(claims)
    name = make_url(user).username
    execute(postgres, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    storage = open_storage(user, create=False)
    assert len(Trials(storage, find_study(storage, "s")).all()) == 1


def test_an_unreadable_table_is_reported_with_the_remedy(
    user: str, postgres: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new(postgres)
    name = make_url(user).username
    execute(postgres, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    storage = open_storage(user, create=False)
    execute(postgres, f"REVOKE SELECT ON trial_answers FROM {name}")
    with pytest.raises(SystemExit) as ended, reporting_errors():
        ScoreStore(storage).read(1, SEARCH)
    assert ended.value.code == 2
    assert "permission denied for table trial_answers; grant" in capsys.readouterr().err


def test_a_read_only_database_is_reported_at_the_start(postgres: str, postgres_server: str) -> None:
    name = make_url(postgres).database
    for full in (False, True):
        if full:
            execute(postgres_server, f"ALTER DATABASE {name} RESET default_transaction_read_only")
            new(postgres)
        execute(postgres_server, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(StorageError, match="read-only transaction; the database is read-only"):
            check_rights(postgres)


@pytest.mark.parametrize("harm", ["folder", "pipe", "link", "text", "parent"])
@pytest.mark.parametrize("use", [check_rights, open_storage])
def test_a_path_that_is_not_a_sqlite_file_is_refused(
    tmp_path: Path, harm: str, use: Callable[[str], object]
) -> None:
    path = tmp_path / "x.db"
    if harm == "folder":
        path.mkdir()
    elif harm == "pipe":
        os.mkfifo(path)
    elif harm == "link":
        path.symlink_to(tmp_path / "nowhere" / "y.db")
    elif harm == "text":
        path.write_text("x" * 5000)
    else:
        path.write_text("")
        path = path / "below" / "y.db"
    with pytest.raises(StorageError, match=r"cannot (use|create) ") as caught:
        use(f"sqlite:///{path}")
    assert "x.db" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_read_only_folder_is_reported_at_the_start(tmp_path: Path) -> None:
    """Run as another user, because root may write to any folder."""
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if os.geteuid() == 0:
            folder.chmod(0o755)
    code = (
        "import os, sys; from storage.database.rights import check_rights\n"
        "from storage.errors import StorageError; os.geteuid() or os.setuid(65534)\n"
        "try: check_rights(sys.argv[1])\nexcept StorageError as e: print(e)"
    )
    url = f"sqlite:///{tmp_path}/new/x.db"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=True
    )
    tmp_path.chmod(0o755)
    assert f"{tmp_path} is not writable; choose another file" in done.stdout


def test_the_database_of_another_application_with_migrations_is_not_changed(database: str) -> None:
    execute(
        database,
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "CREATE TABLE trials (id INTEGER)",
        "CREATE TABLE invoices (id INTEGER)",
    )
    before = tables(database)
    for use in (check_rights, open_storage):
        with pytest.raises(
            StorageError, match="not an Optuna database: it contains the tables invoices"
        ):
            use(database)
    assert tables(database) == before


@pytest.mark.parametrize(("version", "words"), [("v2.6.0.a", "older"), ("v9.9.9.z", "newer")])
def test_tables_of_another_optuna_are_refused(database: str, version: str, words: str) -> None:
    new(database)
    execute(database, f"UPDATE alembic_version SET version_num = '{version}'")
    for use in (check_rights, open_storage, lambda url: open_storage(url, create=False)):
        with pytest.raises(StorageError, match=f"schema {version} of an? {words} Optuna"):
            use(database)


@pytest.mark.parametrize("words", [[], ["--workers", "2"]])
def test_a_run_checks_the_database_before_it_reads_models(tmp_path: Path, words: list[str]) -> None:
    """The models do not exist, which a run with a working database reports."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(2, 5, wide=False)))
    line = [str(path), "--storage", "postgresql://u:Hidden77@127.0.0.1:9/d", *words]
    result = CliRunner().invoke(application(run), line)
    assert result.exit_code == 2
    assert (
        "cannot use postgresql+psycopg2://u:***@127.0.0.1:9/d: connection to server"
        in result.output
    )
    assert "Hidden77" not in result.output
    assert "none" not in result.output


# Servers


@contextlib.contextmanager
def silent_server(greets: bool) -> Iterator[int]:
    """A server that accepts connections and never answers, or stops after the authentication."""
    clients = []

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                clients.append(client)
                while greets:
                    message = client.recv(4096)
                    if message[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
                        client.sendall(b"N")  # no TLS, no GSS
                        continue
                    encoding = b"client_encoding\0UTF8\0"
                    size = (len(encoding) + 4).to_bytes(4, "big")
                    client.sendall(b"R\0\0\0\x08\0\0\0\0S" + size + encoding + b"Z\0\0\0\x05I")
                    break

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
    for client in clients:
        client.close()


@pytest.mark.parametrize("greets", [False, True])
@pytest.mark.parametrize("use", [check_rights, open_storage])
def test_waiting_for_a_server_that_never_answers_times_out(
    greets: bool, use: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_ANSWER_SECONDS", 2)
    with silent_server(greets) as port:
        url = f"postgresql+psycopg2://u@127.0.0.1:{port}/d?connect_timeout=2&sslmode=disable"
        with pytest.raises(StorageError, match=r"has not answered|timeout expired"):
            use(url)


@pytest.mark.parametrize(
    "query", ["nonsense=1", "sslmode=maybe", "connect_timeout=soon", "async=1", "dsn=x", "port=x"]
)
def test_url_options_that_the_driver_rejects_are_reported(postgres: str, query: str) -> None:
    with pytest.raises(StorageError, match="cannot use") as caught:
        check_rights(f"{postgres}?{query}")
    assert "\n" not in str(caught.value)


def test_a_missing_database_is_named(postgres: str) -> None:
    url = make_url(postgres).set(database="no-such-database").render_as_string(hide_password=False)
    with pytest.raises(StorageError, match='database "no-such-database" does not exist'):
        check_rights(url)


def test_waiting_for_a_lock_of_another_process_times_out(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(database)
    monkeypatch.setattr(connections, "_EXCLUSIVE_SECONDS", 1)
    with (
        storage.exclusive(),
        pytest.raises(StorageError, match=r"another process|end it, or try again"),
    ):
        open_storage(database)
    open_storage(database)


def test_a_server_that_stops_answering_is_an_outage(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(postgres)
    monkeypatch.setattr(connections, "_STALLED_SECONDS", 0.3)
    with (
        storage.engine.connect() as connection,
        pytest.raises(DBAPIError, match="has not answered for 0 s") as error,
    ):
        connection.execute(text("SELECT pg_sleep(30)"))
    assert is_transient(error.value)
    with storage.engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


# Encodings


def test_a_sql_ascii_database_stores_any_text(postgres_server: str) -> None:
    with encoded(postgres_server, "SQL_ASCII") as url:
        check_rights(url, ["模型"])
        trials, claims = new(url, "模型")
        claims.finish(trial(claims, "基"), 0.5, {"任务": 0.5}, {}, {})
        assert trials.all()[0].tasks == {"任务": 0.5}
        assert open_storage(url).study_names() == ["模型"]


def test_a_character_outside_the_database_encoding_is_reported_at_the_start(
    postgres_server: str,
) -> None:
    with encoded(postgres_server, "LATIN1") as url:
        check_rights(url, ["é"])
        trial(new(url, "é")[1])
        with pytest.raises(StorageError, match=r"LATIN1.*ENCODING 'UTF8'"):
            check_rights(url, ["s", "模型"])


# Stored data


def test_a_study_of_another_program_is_refused(database: str) -> None:
    storage = open_storage(database)
    theirs = optuna.create_study(storage=storage, study_name="theirs", direction="maximize")
    with pytest.raises(StorageError, match="was not created by merge-study, or"):
        find_study(storage, "theirs")
    theirs.set_user_attr("fingerprint", "sha256")
    theirs.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StorageError, match=r"study theirs in .* belongs to another program"):
        find_study(storage, "theirs")
    with pytest.raises(StorageError, match=r"no study ours in .*; its studies are theirs$"):
        find_study(storage, "ours")


def test_names_from_the_database_are_escaped(database: str) -> None:
    storage = open_storage(database)
    create_study(storage, "evil\x1b[2J")
    with pytest.raises(StorageError, match=r"its studies are evil\\x1b\[2J$"):
        find_study(storage, "ours")


@pytest.mark.parametrize("value", ['{"broken', "[" * 100_000])
def test_invalid_json_is_reported_with_its_attribute(database: str, value: str) -> None:
    trials, claims = new(database)
    trials.study.set_user_attr("other", 1)
    number = trial(claims)
    claims.finish(number, 0.5, {}, {}, {})
    execute(database, f"UPDATE trial_user_attributes SET value_json = '{value}'")
    with pytest.raises(StorageError, match=rf"attribute \w+ of the trial with id {number} cannot"):
        Trials(trials.database, trials.study).all()
    with pytest.raises(StorageError, match=f"an attribute of the trial with id {number} cannot"):
        trials.frozen()
    execute(database, f"UPDATE study_user_attributes SET value_json = '{value}'")
    with pytest.raises(StorageError, match="an attribute of the study cannot be read"):
        find_study(trials.database, "s")
    with pytest.raises(StorageError, match=r"no study t in .*; its studies are s$"):
        find_study(trials.database, "t")


@pytest.mark.parametrize(
    ("key", "value"),
    [("tasks", '"x"'), ("tasks", '{"t": "x"}'), ("result", "[]"), ("generation", '"x"')],
)
def test_attributes_of_the_wrong_type_are_reported(database: str, key: str, value: str) -> None:
    trials, claims = new(database)
    claims.finish(trial(claims), 0.5, {"t": 0.5}, {"error": 0.1}, {})
    execute(
        database,
        f"UPDATE trial_user_attributes SET value_json = '{value}' WHERE key = '{key}'",
    )
    with pytest.raises(
        StorageError, match=f"attribute {key} of the trial .* not a value that merge-study"
    ):
        trials.all()


def test_damaged_attributes_of_a_study_are_reported(database: str) -> None:
    storage = open_storage(database)
    study = create_study(storage, "s")
    store_or_check_fingerprint(study, {"population": "some"})
    study.set_user_attr("budget", "many")
    study.set_user_attr("verdict", ["good"])
    for read in (stored_fingerprint, stored_verdict, lambda study: stored_budget(study, 1)):
        with pytest.raises(StorageError, match="damaged: its attribute"):
            read(study)


def test_scores_that_cannot_be_decoded_are_reported(database: str) -> None:
    trials, claims = new(database)
    number = trial(claims)
    ScoreStore(trials.database).write(number, SEARCH, {"one": random_scores(1)})
    execute(database, "UPDATE trial_answers SET scores = 'x'")
    with pytest.raises(StorageError, match=f"scores of trial {number} in task one cannot be read"):
        ScoreStore(trials.database).read(number, SEARCH)


def test_a_damaged_file_is_reported_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    trials, claims = new(url)
    trial(claims)
    trials.database.engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    data = bytearray((tmp_path / "x.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "x.db").write_bytes(data)
    with pytest.raises(SystemExit) as ended, reporting_errors():
        find_study(open_storage(url, create=False), "s")
    assert ended.value.code == 2
    assert "malformed; restore the file from a backup" in capsys.readouterr().err
