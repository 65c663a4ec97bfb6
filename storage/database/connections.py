"""Connections to SQLite files and Postgres servers, and what they promise."""

import contextlib
import fcntl
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .url import sqlite_path

_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq's options: a server that is gone is noticed within half a minute (values in s and ms)."""

_IDLE_TRANSACTION = "60s"
"""After this the server ends a transaction whose client was stopped, so that no other waits on
its locks for ever."""

_IMMEDIATE = "immediate"


def engine_options(url: str) -> dict[str, Any]:
    """What `create_engine` takes for this URL; options in the URL itself are left alone."""
    given = make_url(url).query
    options = {"timeout": 60} if sqlite_path(url) else _POSTGRES
    mine = {key: value for key, value in options.items() if key not in given}
    return {"pool_pre_ping": True, "connect_args": mine}


def make_engine(url: str) -> Engine:
    engine = create_engine(url, **engine_options(url))
    prepare(engine)
    return engine


def prepare(engine: Engine) -> None:
    """Give an engine's connections their habits."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    else:
        event.listen(engine, "connect", _on_postgres_connect)


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A transaction that writes. On SQLite it holds the file's write lock from its beginning, so
    that what it reads is still so when it writes."""
    with Session(engine.execution_options(**{_IMMEDIATE: True})) as session, session.begin():
        yield session


@contextlib.contextmanager
def exclusive(engine: Engine, url: str) -> Iterator[None]:
    """One process at a time in this database; others wait. It ends with the process."""
    path = sqlite_path(url)
    if path is not None:
        with path.with_name(f"{path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    number = {"number": _number("merge study: opening")}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), number)
        try:
            yield
        finally:
            with contextlib.suppress(DBAPIError):  # a lost connection has given the lock back
                connection.execute(text("SELECT pg_advisory_unlock(:number)"), number)


def use_write_ahead_log(path: Path) -> None:
    """Make the file where it is not there. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _on_sqlite_connect(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: _on_sqlite_begin does
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_IMMEDIATE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _on_postgres_connect(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_TRANSACTION}'")
    connection.commit()


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
