"""Temporary Postgres servers and databases."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


@contextlib.contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """Create an empty database on a server; yield its URL, and drop it at the end."""
    name = f"study_{uuid.uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


class Server:
    """A Postgres server on a free port of the loopback address, which tests can stop and start.

    It needs initdb and pg_ctl. If the tests run as root, the server runs as postgres or nobody.
    """

    def __init__(self, password: str | None = None) -> None:
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = _other_user()
        if self._user:
            shutil.chown(self._folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["-D", self._folder / "data", "-U", "postgres", "-N", "-A", "trust"]
        if password is not None:
            secret = self._folder / "password"
            secret.write_text(password)
            words = [*words[:-1], "scram-sha-256", f"--pwfile={secret}"]
        self._call("initdb", *words)
        self.password = password
        self.start()

    @property
    def url(self) -> str:
        user = "postgres" if self.password is None else f"postgres:{self.password}"
        return f"postgresql+psycopg2://{user}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        log = self._folder / "log"
        self._call("pg_ctl", "-D", self._folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` ends its sessions, `immediate` simulates a crash."""
        self._call("pg_ctl", "-D", self._folder / "data", "-m", mode, "-w", "stop")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, program: str, *words: object) -> None:
        subprocess.run(
            [self._programs / program, *map(str, words)],
            check=True,
            cwd="/",
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _programs() -> Path:
    """Return the folder of the newest server's programs. Raises FileNotFoundError."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3])
    )
    path = shutil.which("initdb") or (str(installed[-1]) if installed else None)
    if path is None:
        raise FileNotFoundError("initdb was not found: install a Postgres server")
    return Path(path).parent


def _other_user() -> str | None:
    """Return the user for the server if the tests run as root, where Postgres refuses to run."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
