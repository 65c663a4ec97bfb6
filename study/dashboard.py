"""python -m study.dashboard CONFIG: serve optuna-dashboard on the database of a study."""

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
    from study.monitors.dashboard_access import Application, HostNames

log = logging.getLogger(__name__)

_TOKEN = "STUDY_DASHBOARD_TOKEN"
Host = Annotated[
    str, typer.Option(help="address to listen on; other than loopback addresses need a token")
]
Port = Annotated[int, typer.Option(help="port to listen on", min=0, max=65535)]
Token = Annotated[
    str | None,
    typer.Option(help="password that visitors must enter, with any user name", envvar=_TOKEN),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        envvar="STUDY_DASHBOARD_ALLOW_HOST",
        help="host name under which a proxy serves the dashboard; may be repeated",
    ),
]
Writable = Annotated[
    bool, typer.Option("--writable", help="let visitors change and delete studies")
]
_THREADS = 8
_MAX_BODY_BYTES = 2**22
"""The maximum size of a request."""


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
        fail(f"{name} is empty: set a password, or omit it")
    names = _names(host, port, token, allowed_hosts or [])
    with _open_database(config, storage) as database:
        _serve(_application(database, names, token, writable), host, port)


def _names(host: str, port: int, token: str | None, allowed: list[str]) -> "HostNames":
    """Return the accepted host names. End the program if an option is invalid."""
    from study.monitors.dashboard_access import HostNames, host_name, is_loopback

    for name in allowed:
        if host_name(name) is None or ":" in name:
            fail(f"--allow-host {name!r} must be a host name without scheme and port")
    try:
        infos = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        fail(f"--host {host!r} is neither an IP address nor a host name; try 127.0.0.1")
    addresses = {str(info[4][0]) for info in infos}
    own = {host.lower(), *addresses}
    if not all(is_loopback(address) for address in addresses):
        if token is None:
            fail(
                f"--host {host} can be reached from other machines: set a password with --token "
                f"or {_TOKEN} in the environment"
            )
        own.add(socket.gethostname().lower())
    return HostNames(
        frozenset(own),
        frozenset(name.lower().rstrip(".") for name in allowed),
        any_address=not addresses.isdisjoint(("0.0.0.0", "::")),
    )


@contextlib.contextmanager
def _open_database(path: Path, storage: str | None) -> "Iterator[Database]":
    from storage.database.url import redacted
    from study.config.load import load_config, study_url
    from study.setup.stored import open_study

    config = load_config(path)
    with open_study(config, study_url(config, storage)) as stored:
        log.info("study %s in %s", config.name, redacted(stored.url))
        yield stored.database


def _application(
    database: "Database", names: "HostNames", token: str | None, writable: bool
) -> "Application":
    from optuna.storages._cached_storage import _CachedStorage
    from optuna_dashboard import wsgi

    from study.monitors.dashboard_access import (
        add_security_headers,
        check_origin,
        read_only,
        require_token,
        validate,
    )
    from study.monitors.dashboard_failures import FailureReporter

    reporter = FailureReporter(database.engine)
    messages = logging.getLogger("optuna_dashboard")
    messages.addHandler(reporter)
    messages.propagate = False
    # With the cache, a finished trial is read once instead of at each poll.
    app: Application = reporter.around(validate(wsgi(_CachedStorage(database)), database))
    if not writable:
        app = read_only(app)
    if token is not None:
        app = require_token(app, token)
    return add_security_headers(check_origin(app, names))


def _serve(app: "Application", host: str, port: int) -> None:
    from waitress.server import create_server

    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        server = create_server(
            app, host=host, port=port, threads=_THREADS, max_request_body_size=_MAX_BODY_BYTES
        )
    except (OSError, ValueError) as error:
        fail(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}")
    for address, bound_port in getattr(server, "effective_listen", [(host, port)]):
        print(f"http://{f'[{address}]' if ':' in address else address}:{bound_port}/", flush=True)
    server.run()  # Ctrl-C ends it


if __name__ == "__main__":
    main(dashboard)
