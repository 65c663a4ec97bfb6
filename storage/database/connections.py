"""Connections to SQLite files and PostgreSQL servers: options, transactions and locks."""

import contextlib
import fcntl
import hashlib
import logging
import math
import select
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
"""Options of libpq, in s and (tcp_user_timeout) ms: a lost server is noticed within 30 s."""

_SESSION = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '60s'"
"""The server ends the transaction of a stopped client, so that its locks are released, and ends a
statement that waits too long for a lock."""

_ANSWER_SECONDS = 30
"""The timeout of the first query, in addition to a connect_timeout in the URL."""

_STALLED_SECONDS = 90.0
"""The longest wait for data of an answer. The server itself ends waits for locks earlier."""

_EXCLUSIVE_SECONDS, _POLL_SECONDS, _SILENT_SECONDS = 600, 0.1, 5
"""The longest wait for another process that opens the database, the time between two tries, and
the wait after which a warning is logged."""

_IMMEDIATE = "immediate"


def engine_options(url: str) -> dict[str, Any]:
    """Return the keyword arguments of `create_engine`; options in the URL take precedence."""
    url_options = make_url(url).query
    defaults: dict[str, Any] = {"timeout": 60} if sqlite_path(url) else _POSTGRES
    options = {key: value for key, value in defaults.items() if key not in url_options}
    if sqlite_path(url) is None:
        options["client_encoding"] = "utf8"  # a SQL_ASCII database would only accept ASCII
    return {"pool_pre_ping": True, "connect_args": options}


def make_engine(url: str) -> Engine:
    """Return an engine whose connections are set up by `prepare`."""
    engine = create_engine(url, **engine_options(url))
    prepare(engine)
    return engine


def prepare(engine: Engine) -> None:
    """Install the event listeners that set up new connections and begin transactions."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    else:
        event.listen(engine, "connect", _on_postgres_connect)
        if engine.dialect.driver == "psycopg2":
            event.listen(engine, "do_connect", _connect_with_psycopg2)


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Begin a transaction that writes, and commit it at the end.

    On SQLite it takes the write lock at once, so that no other process changes what it has read.
    """
    with Session(engine.execution_options(**{_IMMEDIATE: True})) as session, session.begin():
        yield session


def wait_for_answer(engine: Engine, url: str) -> None:
    """Wait until the server has answered a query. Raises StorageError after a timeout.

    The query runs in a thread of its own, because the driver can only limit the connection time.
    """
    if sqlite_path(url) is not None:
        return
    answer: Future[None] = Future()

    def query() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            answer.set_result(None)
        except Exception as error:  # raised again in the waiting thread
            answer.set_exception(error)

    connect_timeout = str(make_url(url).query.get("connect_timeout", ""))
    limit = _ANSWER_SECONDS + (int(connect_timeout) if connect_timeout.isdecimal() else 0)
    threading.Thread(target=query, name="first query", daemon=True).start()
    try:
        answer.result(limit)
    except TimeoutError:
        if answer.done():
            raise
        raise StorageError(
            f"cannot use {redacted(url)}: the server has not answered for {limit} s; check that "
            "the host and the port are those of a PostgreSQL server"
        ) from None


@contextlib.contextmanager
def exclusive(engine: Engine, url: str) -> Iterator[None]:
    """Hold a lock on the database that one process at a time can hold; others wait for it.

    The lock is released when the process ends. Raises StorageError after a timeout.
    """
    path = sqlite_path(url)
    if path is not None:
        with path.with_name(f"{path.name}.lock").open("w") as file:
            _lock(file, path)
            yield
        return
    number = {"number": _lock_number("merge study: opening")}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SET lock_timeout = '{_EXCLUSIVE_SECONDS}s'"))
        with _longest_wait(_EXCLUSIVE_SECONDS + _STALLED_SECONDS):
            connection.execute(text("SELECT pg_advisory_lock(:number)"), number)
        try:
            yield
        finally:
            with contextlib.suppress(DBAPIError):  # a lost connection has released the lock
                connection.execute(text("SELECT pg_advisory_unlock(:number)"), number)
                connection.execute(text(_SESSION))


def _lock(file: IO[str], path: Path) -> None:
    """Lock a file. Raises StorageError if another process holds the lock for too long."""
    start, next_warning = time.monotonic(), float(_SILENT_SECONDS)
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        waited = time.monotonic() - start
        if waited > _EXCLUSIVE_SECONDS:
            raise StorageError(
                f"cannot use {path}: another process has held {path.name}.lock for "
                f"{_EXCLUSIVE_SECONDS} s; end that process, or try again"
            )
        if waited > next_warning:
            next_warning = math.inf
            log.warning("waiting for another process that is opening %s", path)
        time.sleep(_POLL_SECONDS)


def use_write_ahead_log(path: Path) -> None:
    """Enable write-ahead logging; creates the file if it is missing. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _on_sqlite_connect(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # _on_sqlite_begin begins transactions, not the driver
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_IMMEDIATE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _on_postgres_connect(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SESSION)
    connection.commit()


_connecting = threading.Lock()
_limits = threading.local()


def _connect_with_psycopg2(dialect: Any, _: object, args: Any, options: Any) -> Any:
    """Connect, and let `_wait` wait for answers from then on.

    Without a wait callback libpq itself connects, which honours connect_timeout. The callback is
    one for the whole process.
    """
    from psycopg2.extensions import set_wait_callback

    with _connecting:
        set_wait_callback(None)
        try:
            return dialect.connect(*args, **options)
        finally:
            set_wait_callback(_wait)


@contextlib.contextmanager
def _longest_wait(seconds: float) -> Iterator[None]:
    """Wait for answers of servers for up to `seconds` in this thread, within this context."""
    _limits.seconds = seconds
    try:
        yield
    finally:
        del _limits.seconds


def _wait(connection: Any) -> None:
    """Wait for the answer to a query of psycopg2.

    The driver itself waits without limit for a server that accepts data and does not answer, and
    does not let Python handle signals meanwhile. Raises psycopg2.OperationalError.
    """
    import psycopg2
    from psycopg2.extensions import POLL_OK, POLL_READ

    limit = getattr(_limits, "seconds", _STALLED_SECONDS)
    while (state := connection.poll()) != POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poll.poll(1000 * limit):
            raise psycopg2.OperationalError(f"the server has not answered for {limit:.0f} s")


def _lock_number(name: str) -> int:
    """Return the number of an advisory lock, 0 to 2**63 - 1."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
