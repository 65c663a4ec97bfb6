"""Connections to SQLite files and Postgres servers, and what they promise."""

import contextlib
import fcntl
import hashlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from storage.errors import StorageError

from .url import redacted, sqlite_path

log = logging.getLogger(__name__)

_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq's options: a server that is gone is noticed within half a minute (values in s and ms)."""

_SESSION = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '60s'"
"""The server ends a transaction whose client was stopped, so that no other waits on its locks for
ever, and a statement that waits for a lock."""

_ANSWER_SECONDS = 30
"""The time that a server has to answer a first query, besides a connect_timeout in the URL."""

_EXCLUSIVE_SECONDS, _POLL_SECONDS, _QUIET_SECONDS = 600, 0.1, 5
"""The longest wait for the other processes that open a database, the time between tries, and the
wait that is worth a message."""

_IMMEDIATE = "immediate"


def engine_options(url: str) -> dict[str, Any]:
    """What `create_engine` takes for this URL; options in the URL itself are left alone."""
    given = make_url(url).query
    options: dict[str, Any] = {"timeout": 60} if sqlite_path(url) else _POSTGRES
    mine = {key: value for key, value in options.items() if key not in given}
    if sqlite_path(url) is None:
        mine["client_encoding"] = "utf8"  # else a database in SQL_ASCII takes nothing but ASCII
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


def wait_for_answer(engine: Engine, url: str) -> None:
    """Return once a server has answered a query; raise StorageError if it has not in time.

    The driver only limits the time to connect, so that a thread asks and this one waits.
    """
    if sqlite_path(url) is not None:
        return
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            answer.set_result(None)
        except Exception as error:  # raised again by the thread that waits
            answer.set_exception(error)

    patience = str(make_url(url).query.get("connect_timeout", ""))
    limit = _ANSWER_SECONDS + (int(patience) if patience.isdecimal() else 0)
    threading.Thread(target=ask, name="first query", daemon=True).start()
    try:
        answer.result(limit)
    except TimeoutError:
        if answer.done():
            raise
        raise StorageError(
            f"cannot use {redacted(url)}: the server has not answered for {limit} s; check that "
            "host and port are those of a PostgreSQL server"
        ) from None


@contextlib.contextmanager
def exclusive(engine: Engine, url: str) -> Iterator[None]:
    """One process at a time in this database; others wait. It ends with the process."""
    path = sqlite_path(url)
    if path is not None:
        with path.with_name(f"{path.name}.lock").open("w") as file:
            _lock(file, path)
            yield
        return
    number = {"number": _number("merge study: opening")}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SET lock_timeout = '{_EXCLUSIVE_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:number)"), number)
        try:
            yield
        finally:
            with contextlib.suppress(DBAPIError):  # a lost connection has given the lock back
                connection.execute(text("SELECT pg_advisory_unlock(:number)"), number)
                connection.execute(text(_SESSION))


def _lock(file: IO[str], path: Path) -> None:
    """Take the lock of a file. Raises StorageError if another process keeps it."""
    began, quiet = time.monotonic(), float(_QUIET_SECONDS)
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        waited = time.monotonic() - began
        if waited > _EXCLUSIVE_SECONDS:
            raise StorageError(
                f"cannot use {path}: another process has kept {path.name}.lock for "
                f"{_EXCLUSIVE_SECONDS} s; end it, or try again"
            )
        if waited > quiet:
            quiet = math.inf
            log.warning("waiting for another process that opens %s", path)
        time.sleep(_POLL_SECONDS)


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
        cursor.execute(_SESSION)
    connection.commit()


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
