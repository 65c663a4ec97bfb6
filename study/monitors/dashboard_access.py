"""Access control of the dashboard, as WSGI middleware around optuna-dashboard's application.

A page of another site can make a browser send requests to this server, by DNS rebinding even under
that site's host name. Therefore Host and Origin are checked in addition to the token.
"""

import base64
import hmac
import io
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_READ_METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_PORTS = {"http": ":80", "https": ":443"}
_MAX_ID = 2**31 - 1
_NUMBERED = re.compile(r"/(?:api/(?:studies|artifacts|(trials))|artifacts|csv)/(-?\d+)(?:/.*)?")
_PARETO_FRONT, _IN_PARETO_FRONT = "/plot/pareto_front", (2, 3)
"""The end of the path, and the numbers of objectives that Optuna draws."""
_ANCESTORS = "frame-ancestors 'none'"
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class HostNames:
    """The host names under which visitors may reach the dashboard."""

    own: frozenset[str]
    """The server's address and names, in lower case. Loopback names are always accepted."""
    proxies: frozenset[str] = frozenset()
    """Names of proxies in front of the server; their ports may differ."""
    any_address: bool = False
    """Whether any IP address is accepted, for a server that listens on all. DNS rebinding needs a
    name, so a page at an IP address comes from this server."""

    def accepts(self, header: str) -> bool:
        """Return whether a Host header names this server."""
        name = host_name(header)
        if name is None:
            return False
        address = _address(name)
        if address is not None and (address.is_loopback or self.any_address):
            return True
        return name == "localhost" or name in self.own or name in self.proxies

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Return whether an Origin is a page of this server; `host` is the Host header."""
        scheme, separator, rest = origin.lower().partition("://")
        if not separator or scheme not in _PORTS:
            return False
        return rest.removesuffix(_PORTS[scheme]) == host.lower().removesuffix(_PORTS[scheme]) or (
            host_name(rest) in self.proxies
        )


def host_name(header: str) -> str | None:
    """Return the name in a Host header, in lower case, without port and brackets; None if the
    header is malformed."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").rstrip(".").lower() if match else None


def is_loopback(address: str) -> bool:
    """Return whether an IP address is a loopback address."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_only(app: Application) -> Application:
    """Refuse all methods except GET and HEAD."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _READ_METHODS:
            return app(environ, start_response)
        return refuse(
            start_response, "403 Forbidden", "this dashboard is read-only; see --writable"
        )

    return respond


def require_token(app: Application, token: str) -> Application:
    """Require the token, as the password of HTTP Basic or as a bearer token."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _has_token(environ.get("HTTP_AUTHORIZATION", ""), token):
            return app(environ, start_response)
        challenge = ("WWW-Authenticate", 'Basic realm="study", charset="UTF-8"')
        return refuse(start_response, "401 Unauthorized", "a token is required", challenge)

    return respond


def check_origin(app: Application, names: HostNames) -> Application:
    """Refuse requests with an unknown host name, and requests that pages of other sites send."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if not names.accepts(host):
            reason = "this host name is not allowed; see --allow-host"
            return refuse(start_response, "403 Forbidden", reason)
        origin = environ.get("HTTP_ORIGIN")
        site = environ.get("HTTP_SEC_FETCH_SITE", "none")
        changes = environ["REQUEST_METHOD"] not in _READ_METHODS
        if (origin is not None and not names.accepts_origin(origin, host)) or (
            changes and site not in ("same-origin", "none")
        ):
            return refuse(
                start_response,
                "403 Forbidden",
                "requests from pages of other sites are not allowed",
            )
        return app(environ, start_response)

    return respond


class Stored(Protocol):
    """The studies and trials in the database, by id. Both methods raise KeyError for others."""

    def get_study_directions(self, study_id: int, /) -> Sequence[Any]: ...

    def get_trial(self, trial_id: int, /) -> Any: ...


def validate(app: Application, stored: Stored) -> Application:
    """Refuse requests that optuna-dashboard would fail on, and add the headers that it requires."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # static files require it
        if environ["REQUEST_METHOD"] in _READ_METHODS:
            environ |= {"CONTENT_LENGTH": "0", "CONTENT_TYPE": "", "wsgi.input": io.BytesIO()}
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode()
        except UnicodeError:
            return refuse(start_response, "400 Bad Request", "the path is not UTF-8")
        if any(ord(c) < 32 for c in path):
            return refuse(start_response, "400 Bad Request", "the path contains control characters")
        after = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get("after", [])
        if not all(re.fullmatch(r"[0-9]{1,9}", value) for value in after):
            return refuse(start_response, "400 Bad Request", "after must be a number of trials")
        if numbered := _NUMBERED.fullmatch(path):
            kind, digits = "trial" if numbered[1] else "study", numbered[2]
            number = int(digits) if len(digits) <= len(str(_MAX_ID)) else -1
            objectives = _objectives(stored, kind, number) if 0 <= number <= _MAX_ID else None
            if objectives is None:
                return refuse(start_response, "404 Not Found", f"there is no such {kind}")
            if path.rstrip("/").endswith(_PARETO_FRONT) and objectives not in _IN_PARETO_FRONT:
                reason = "a Pareto front needs a study with 2 or 3 objectives"
                return refuse(start_response, "400 Bad Request", reason)
        if environ["REQUEST_METHOD"] in ("POST", "PUT") and path.startswith("/api/"):
            body = environ["wsgi.input"].read()
            environ["wsgi.input"] = io.BytesIO(body)
            if not _is_mapping(body) or "json" not in environ.get("CONTENT_TYPE", ""):
                return refuse(start_response, "400 Bad Request", "the body must be a JSON object")
        return app(environ, start_response)

    return respond


def _objectives(stored: Stored, kind: str, number: int) -> int | None:
    """Return the number of objectives of a study, or 0 for a trial; None if it does not exist."""
    try:
        if kind == "study":
            return len(stored.get_study_directions(number))
        stored.get_trial(number)
    except KeyError:
        return None
    return 0


def _is_mapping(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def add_security_headers(app: Application) -> Application:
    """Add headers against framing, content sniffing and referrers to every response."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start_with_headers(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            replaced = {name.lower() for name in _HEADERS} | {"content-security-policy"}
            policies = [v for name, v in headers if name.lower() == "content-security-policy"]
            others = [(name, value) for name, value in headers if name.lower() not in replaced]
            policy = "; ".join([*policies, _ANCESTORS])
            return start_response(
                status, [*others, *_HEADERS.items(), ("Content-Security-Policy", policy)], *rest
            )

        return app(environ, start_with_headers)

    return respond


def _has_token(header: str, token: str) -> bool:
    scheme, _, value = header.partition(" ")
    credential = value.encode("latin-1", "replace")  # WSGI decodes headers as Latin-1
    if scheme.lower() == "basic":
        try:
            credential = base64.b64decode(credential, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(credential, token.encode("utf-8", "surrogateescape"))


def refuse(
    start_response: StartResponse, status: str, reason: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    """Respond with a status and a reason, as JSON."""
    body = f"{json.dumps({'reason': reason})}\n".encode()
    length = ("Content-Length", str(len(body)))
    start_response(status, [("Content-Type", "application/json"), length, *headers])
    return [body]
