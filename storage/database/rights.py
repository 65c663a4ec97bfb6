"""Check that a database can be used for a study, without leaving anything in it.

A run does this before it reads any model. This module does not import Optuna.
"""

import contextlib
import importlib.util
import os
import sqlite3
import uuid
from collections.abc import Iterable
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from storage.errors import StorageError

from .connections import make_engine, wait_for_answer
from .reasons import explained
from .tables import OPTUNA_TABLES, OUR_TABLES
from .url import printable, redacted, sqlite_path

_INACCESSIBLE = text(
    """
    SELECT c.relname FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relname = ANY(:names)
        AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
    UNION ALL
    SELECT s.relname FROM pg_class s
        JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i')
        JOIN pg_class c ON c.oid = d.refobjid
    WHERE pg_table_is_visible(c.oid) AND c.relname = ANY(:names)
        AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
    ORDER BY 1
    """
)
"""Selects the tables and sequences for which the user lacks a privilege that a study needs."""


def check_rights(url: str, texts: Iterable[str] = ()) -> None:
    """Check that the database responds, that the user may write, and that `texts` can be stored.

    Raises StorageError.
    """
    path = sqlite_path(url)
    with explained(url):
        if path is not None:
            _check_file(path)
            if not path.exists():
                return
        engine = make_engine(url)
        try:
            wait_for_answer(engine, url)
            with engine.connect() as connection:  # ends with a rollback
                tables = set(inspect(connection).get_table_names())
                check_tables(tables, url)
                check_version(stored_version(connection, tables), url)
                if path is None:
                    _check_server(connection, url, tables, texts)
        finally:
            engine.dispose()


def check_tables(tables: Iterable[str], url: str) -> None:
    """Check that a database has Optuna's tables, or no tables yet. Raises StorageError."""
    names = set(tables)
    expected = OPTUNA_TABLES | {table.name for table in OUR_TABLES}
    if not names <= expected and not names >= {"studies", "trials", "version_info"}:
        others = ", ".join(sorted(names - expected)[:3])
        raise StorageError(
            f"{redacted(url)} is not an Optuna database: it contains the tables {others}; use a "
            "database of its own for the study"
        )


def stored_version(connection: Connection, tables: Iterable[str]) -> str | None:
    """Return the schema version of Optuna's tables; None before Optuna has created them all."""
    if "alembic_version" not in set(tables):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().first()


def check_version(version: str | None, url: str) -> None:
    """Check that the installed Optuna uses this schema version. Raises StorageError."""
    if version is None:
        return
    optuna = importlib.util.find_spec("optuna")
    assert optuna is not None
    assert optuna.origin is not None
    scripts = ScriptDirectory(str(Path(optuna.origin).parent / "storages" / "_rdb" / "alembic"))
    if version == scripts.get_current_head():
        return
    tables = f"the tables in {redacted(url)} have the schema {printable(str(version))}"
    if any(version == script.revision for script in scripts.walk_revisions()):
        raise StorageError(
            f"{tables} of an older Optuna; back up the database and upgrade it with "
            "`optuna storage upgrade --storage URL`"
        )
    raise StorageError(
        f"{tables} of a newer Optuna or of another program; install the Optuna version that "
        "created them, or use a database of its own for the study"
    )


def check_file_type(path: Path) -> None:
    """Check that a SQLite path is a regular file or can become one. Raises StorageError."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise StorageError(
            f"cannot use {path} as a SQLite database: it is {kind}; choose another file"
        )
    if path.is_symlink() and not path.exists() and not path.resolve().parent.is_dir():
        raise StorageError(
            f"cannot use {path} as a SQLite database: it is a link into {path.resolve().parent}, "
            "which does not exist; choose another file"
        )


def _check_file(path: Path) -> None:
    """Check that a SQLite file can be written: roll back a write, or check a new file's folder."""
    check_file_type(path)
    if not path.exists():
        parent = next(folder for folder in path.resolve().parents if os.path.lexists(folder))
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            wrong = "is not writable" if parent.is_dir() else "is not a folder"
            raise StorageError(f"cannot create {path}: {parent} {wrong}; choose another file")
        return
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f'CREATE TABLE "{_probe()}" (x INTEGER)')
        connection.execute("ROLLBACK")


def _check_server(connection: Connection, url: str, tables: set[str], texts: Iterable[str]) -> None:
    expected = OPTUNA_TABLES | {table.name for table in OUR_TABLES}
    if not tables >= expected:
        connection.execute(text(f'CREATE TABLE "{_probe()}" (x INTEGER)'))
    _check_writing(connection, url, sorted(tables & expected))
    for value in texts:
        connection.execute(text("SELECT CAST(:value AS TEXT)"), {"value": value})


def _check_writing(connection: Connection, url: str, names: list[str]) -> None:
    if inaccessible := connection.execute(_INACCESSIBLE, {"names": names}).scalars().all():
        raise StorageError(
            f"cannot use {redacted(url)}: the user may not write to {', '.join(inaccessible[:3])}; "
            "grant SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on their sequences"
        )
    if names:  # refused by a standby server and in a read-only transaction
        connection.execute(text(f'DELETE FROM "{names[0]}" WHERE false'))


def _probe() -> str:
    """Return the name of a table that is created and rolled back."""
    return f"merge_study_probe_{uuid.uuid4().hex[:8]}"
