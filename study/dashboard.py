"""python -m study.dashboard CONFIG: optuna-dashboard on a study's database, for looking only."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.boundary import main
from study.cli.options import ConfigPath, StorageUrl
from study.cli.session import fail, start_logging

if TYPE_CHECKING:
    from storage.database.database import Database
    from study.monitors.dashboard_access import Application, Names

log = logging.getLogger(__name__)

_TOKEN = "STUDY_DASHBOARD_TOKEN"
Host = Annotated[
    str, typer.Option(help="address to listen on; one that other machines reach needs a token")
]
Port = Annotated[int, typer.Option(help="port to listen on", min=0, max=65535)]
Token = Annotated[
    str | None,
    typer.Option(help="password that every visitor must give, with any user name", envvar=_TOKEN),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        envvar="STUDY_DASHBOARD_ALLOW_HOST",
        help="host name under which a proxy serves the dashboard; may be given again",
    ),
]
Writable = Annotated[
    bool, typer.Option("--writable", help="let visitors change and delete studies")
]
_THREADS = 8
_LARGEST_BODY = 2**22
"""Bytes of a request; the largest is a note."""


def dashboard(
    config: ConfigPath,
    storage: StorageUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    token: Token = None,
    allowed_hosts: AllowedHosts = None,
    writable: Writable = False,
) -> None:
    """Show a study in the browser: history, parameters, its note and figures."""
    start_logging()
    if not (os.environ.get(_TOKEN, "-") if token is None else token).strip():
        name = _TOKEN if token is None else "--token"
        fail(f"{name} is empty, so it would protect nothing: give a password, or leave it out")
    names = _names(host, port, token, allowed_hosts or [])
    with _opened(config, storage) as database:
        _serve(_application(database, names, token, writable), host, port)


def _names(host: str, port: int, token: str | None, allowed: list[str]) -> "Names":
    """The host names of requests that are answered. Ends the program if an option is wrong."""
    from study.monitors.dashboard_access import Names, host_name, is_loopback

    for name in allowed:
        if host_name(name) is None or ":" in name:
            fail(f"--allow-host {name!r} must be a host name without scheme and port")
    try:
        found = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        fail(f"--host {host!r} is neither an IP address nor a name of one; try 127.0.0.1")
    addresses = {str(info[4][0]) for info in found}
    own = {host.lower(), *addresses}
    if not all(is_loopback(address) for address in addresses):
        if token is None:
            fail(
                f"--host {host} can be reached from other machines: give visitors a password with "
                f"--token, or {_TOKEN} in the environment"
            )
        own.add(socket.gethostname().lower())
    return Names(
        frozenset(own),
        frozenset(name.lower().rstrip(".") for name in allowed),
        any_address=not addresses.isdisjoint(("0.0.0.0", "::")),
    )


@contextlib.contextmanager
def _opened(path: Path, storage: str | None) -> "Iterator[Database]":
    from storage.database.url import redacted
    from study.config.load import load_config, study_url
    from study.setup.stored import open_study

    config = load_config(path)
    with open_study(config, study_url(config, storage)) as stored:
        log.info("study %s in %s", config.name, redacted(stored.url))
        yield stored.database


def _application(
    database: "Database", names: "Names", token: str | None, writable: bool
) -> "Application":
    from optuna.storages._cached_storage import _CachedStorage
    from optuna_dashboard import wsgi

    from study.monitors.dashboard_access import (
        FirstLines,
        guarded,
        logged,
        named,
        read_only,
        sealed,
        well_formed,
    )

    def is_stored(kind: str, number: int) -> bool:
        ask = database.get_study_name_from_id if kind == "study" else database.get_trial
        try:
            ask(number)
        except KeyError:
            return False
        return True

    messages = logging.getLogger("optuna_dashboard")
    messages.addHandler(FirstLines())
    messages.propagate = False
    # The cache reads a finished trial once, not at each poll.
    app: Application = logged(well_formed(wsgi(_CachedStorage(database)), is_stored))
    if not writable:
        app = read_only(app)
    if token is not None:
        app = guarded(app, token)
    return sealed(named(app, names))


def _serve(app: "Application", host: str, port: int) -> None:
    from waitress.server import create_server

    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        server = create_server(
            app, host=host, port=port, threads=_THREADS, max_request_body_size=_LARGEST_BODY
        )
    except (OSError, ValueError) as error:
        fail(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}")
    for where, number in getattr(server, "effective_listen", [(host, port)]):
        print(f"http://{f'[{where}]' if ':' in where else where}:{number}/", flush=True)
    server.run()  # Ctrl-C ends it


if __name__ == "__main__":
    main(dashboard)
