"""Which requests the dashboard answers, as WSGI layers around optuna-dashboard's application.

A page of another site can make a browser send requests to this address, and by DNS rebinding under
a name of its own: so the names in Host and Origin are checked, and not only a token.
"""

import base64
import hmac
import io
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from storage.database.retry import driver_message
from storage.database.url import printable

log = logging.getLogger(__name__)

Environ = dict[str, Any]
Start = Callable[..., Any]
Application = Callable[[Environ, Start], Iterable[bytes]]

_READING = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_PORTS = {"http": ":80", "https": ":443"}
_LARGEST_ID = 2**31 - 1
_NUMBERED = re.compile(r"/(?:api/(?:studies|artifacts|(trials))|artifacts|csv)/(-?\d+)(?:/.*)?")
_ANCESTORS = "frame-ancestors 'none'"
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Names:
    """The host names under which visitors may reach the dashboard."""

    own: frozenset[str]
    """Its own address and names, in lower case. Loopback names are always accepted."""
    proxies: frozenset[str] = frozenset()
    """Names of a proxy in front of it, whose port differs."""
    any_address: bool = False
    """Whether any IP address is accepted, for a server that listens on all. An address cannot be
    rebound: a page under it comes from this server."""

    def accept(self, header: str) -> bool:
        """Whether a Host header names this server."""
        name = host_name(header)
        if name is None:
            return False
        address = _address(name)
        if address is not None and (address.is_loopback or self.any_address):
            return True
        return name == "localhost" or name in self.own or name in self.proxies

    def accept_origin(self, origin: str, host: str) -> bool:
        """Whether a request with this Origin comes from a page of this server at `host`."""
        scheme, separator, rest = origin.lower().partition("://")
        if not separator or scheme not in _PORTS:
            return False
        return rest.removesuffix(_PORTS[scheme]) == host.lower().removesuffix(_PORTS[scheme]) or (
            host_name(rest) in self.proxies
        )


def host_name(header: str) -> str | None:
    """Return the name in a Host header, in lower case, without port and brackets; None if it is
    no such header."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").rstrip(".").lower() if match else None


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an IP address."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_only(app: Application) -> Application:
    """Refuse whatever is not GET or HEAD."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _READING:
            return app(environ, start)
        return _refused(start, "403 Forbidden", "this dashboard only shows; see --writable")

    return answer


def guarded(app: Application, token: str) -> Application:
    """Ask for the token: as the password of HTTP Basic, or as a bearer token."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        if _gives(environ.get("HTTP_AUTHORIZATION", ""), token):
            return app(environ, start)
        ask = ("WWW-Authenticate", 'Basic realm="study", charset="UTF-8"')
        return _refused(start, "401 Unauthorized", "the token is needed", ask)

    return answer


def named(app: Application, names: Names) -> Application:
    """Refuse requests under a foreign host name, and those that pages of other sites send."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if not names.accept(host):
            reason = "this host name is not the dashboard's; see --allow-host"
            return _refused(start, "403 Forbidden", reason)
        origin = environ.get("HTTP_ORIGIN")
        site = environ.get("HTTP_SEC_FETCH_SITE", "none")
        changes = environ["REQUEST_METHOD"] not in _READING
        if (origin is not None and not names.accept_origin(origin, host)) or (
            changes and site not in ("same-origin", "none")
        ):
            return _refused(start, "403 Forbidden", "the request comes from another site's page")
        return app(environ, start)

    return answer


def well_formed(app: Application, is_stored: Callable[[str, int], bool]) -> Application:
    """Refuse requests that optuna-dashboard stumbles over, and complete those that lack what it
    expects. `is_stored` says whether there is a "study" or a "trial" with an id."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # without it any static file is an error
        if environ["REQUEST_METHOD"] in _READING:
            environ |= {"CONTENT_LENGTH": "0", "CONTENT_TYPE": "", "wsgi.input": io.BytesIO()}
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode()
        except UnicodeError:
            return _refused(start, "400 Bad Request", "the path is not UTF-8")
        if any(ord(c) < 32 for c in path):
            return _refused(start, "400 Bad Request", "the path contains control characters")
        after = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get("after", [])
        if not all(re.fullmatch(r"[0-9]{1,9}", value) for value in after):
            return _refused(start, "400 Bad Request", "after must be a number of trials")
        if numbered := _NUMBERED.fullmatch(path):
            kind, digits = "trial" if numbered[1] else "study", numbered[2]
            number = int(digits) if len(digits) <= len(str(_LARGEST_ID)) else -1
            if not 0 <= number <= _LARGEST_ID or not is_stored(kind, number):
                return _refused(start, "404 Not Found", f"there is no such {kind}")
        if environ["REQUEST_METHOD"] in ("POST", "PUT") and path.startswith("/api/"):
            body = environ["wsgi.input"].read()
            environ["wsgi.input"] = io.BytesIO(body)
            if not _is_mapping(body) or "json" not in environ.get("CONTENT_TYPE", ""):
                return _refused(start, "400 Bad Request", "the body must be a JSON object")
        return app(environ, start)

    return answer


def _is_mapping(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def sealed(app: Application) -> Application:
    """Forbid other pages to frame an answer, browsers to guess its type, and links to name it."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            ours = {name.lower() for name in _HEADERS} | {"content-security-policy"}
            policies = [v for name, v in headers if name.lower() == "content-security-policy"]
            kept = [(name, value) for name, value in headers if name.lower() not in ours]
            policy = "; ".join([*policies, _ANCESTORS])
            return start(
                status, [*kept, *_HEADERS.items(), ("Content-Security-Policy", policy)], *rest
            )

        return app(environ, begin)

    return answer


def logged(app: Application) -> Application:
    """Log a failed request as one line in place of its traceback."""

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        errors = environ["wsgi.errors"] = io.StringIO()
        try:
            return app(environ, start)
        except (SQLAlchemyError, StorageInternalError) as error:
            errors.write(f"the database failed: {driver_message(error)}")
            return _refused(start, "503 Service Unavailable", "the database does not answer")
        finally:
            if text := errors.getvalue().strip():
                log.error("a request failed: %s", printable(text.rpartition("\n")[2]))

    return answer


class FirstLines(logging.Handler):
    """Logs the first line of each message of optuna-dashboard, whose others are a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        log.error("a request failed: %s", printable(record.getMessage().partition("\n")[0]))


def _gives(header: str, token: str) -> bool:
    scheme, _, value = header.partition(" ")
    offered = value.encode("latin-1", "replace")  # WSGI's texts are bytes as Latin-1
    if scheme.lower() == "basic":
        try:
            offered = base64.b64decode(offered, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(offered, token.encode("utf-8", "surrogateescape"))


def _refused(start: Start, status: str, reason: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = f"{json.dumps({'reason': reason})}\n".encode()
    length = ("Content-Length", str(len(body)))
    start(status, [("Content-Type", "application/json"), length, *headers])
    return [body]
