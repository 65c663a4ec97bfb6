"""python -m study.dashboard CONFIG: optuna-dashboard on a study's database, for looking only."""

import base64
import binascii
import hmac
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from study.cli.options import ConfigPath, StorageUrl
from study.cli.session import application, fail, reported, start_logging

log = logging.getLogger(__name__)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Host = Annotated[str, typer.Option(help="address to listen on")]
Port = Annotated[int, typer.Option(help="port to listen on", min=0, max=65535)]
Token = Annotated[
    str | None,
    typer.Option(
        help="password that every visitor must give, with any user name",
        envvar="STUDY_DASHBOARD_TOKEN",
    ),
]
Writable = Annotated[
    bool, typer.Option("--writable", help="let visitors change and delete studies")
]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_THREADS = 8


def dashboard(
    config: ConfigPath,
    storage: StorageUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    token: Token = None,
    writable: Writable = False,
) -> None:
    """Show a study in the browser: history, parameters, its note and figures."""
    start_logging()
    with reported():
        app = _opened(config, storage)
    if not writable:
        app = read_only(app)
    if token:
        app = guarded(app, token)
    elif host not in _LOOPBACK:
        log.warning("anybody who reaches %s can look: consider --token", host)
    _serve(app, host, port)


def _opened(path: Path, storage: str | None) -> Application:
    from optuna.storages._cached_storage import _CachedStorage
    from optuna_dashboard import wsgi

    from storage.database.database import open_storage
    from storage.database.url import redacted
    from storage.studies import find_study
    from study.config.load import load_config, study_url

    config = load_config(path)
    database = open_storage(study_url(config, storage), create=False)
    find_study(database, config.name)
    log.info("study %s in %s", config.name, redacted(database.url))
    app: Application = wsgi(_CachedStorage(database))  # reads a finished trial once, not each poll
    return app


def _serve(app: Application, host: str, port: int) -> None:
    from waitress.server import create_server

    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        server = create_server(app, host=host, port=port, threads=_THREADS)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}")
    for where, number in getattr(server, "effective_listen", [(host, port)]):
        print(f"http://{f'[{where}]' if ':' in where else where}:{number}/", flush=True)
    server.run()  # Ctrl-C ends it


def read_only(app: Application) -> Application:
    """Refuse whatever is not GET or HEAD."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start)
        return _refused(start, "403 Forbidden", "this dashboard only shows; see --writable")

    return answer


def guarded(app: Application, token: str) -> Application:
    """Ask for the token: as the password of HTTP Basic, or as a bearer token."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if _gives(environ.get("HTTP_AUTHORIZATION", ""), token):
            return app(environ, start)
        ask = ("WWW-Authenticate", 'Basic realm="study", charset="UTF-8"')
        return _refused(start, "401 Unauthorized", "the token is needed", ask)

    return answer


def _gives(header: str, token: str) -> bool:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode(), token.encode())


def _refused(
    start: Callable[..., Any], status: str, reason: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    body = f'{{"reason": "{reason}"}}\n'.encode()
    length = ("Content-Length", str(len(body)))
    start(status, [("Content-Type", "application/json"), length, *headers])
    return [body]


if __name__ == "__main__":
    application(dashboard)()
