"""Database URLs: validate and complete them, and show them without secrets."""

import importlib.util
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import StorageError

_DRIVERS = {"sqlite": ("pysqlite",), "postgresql": ("psycopg2", "psycopg")}
"""The supported drivers; the first is the default."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*")
_PLAIN = re.compile(
    r"""(?:(?P<user>(?:(?!%3[Aa])[^:/?\#@])*)(?P<password>:[^/?\#@]*)?@)?
        (?P<host>[\w.,-]*|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]*)?
        (?P<database>/[^/?\#@;&=]*)?
        (?:\?(?P<query>[^\#@]*))?""",
    re.VERBOSE,
)
"""The part of an unambiguous URL after its scheme: no delimiter occurs twice."""
_USER = re.compile(r"[^:/]*(?::[^@]*)?@")
"""The part that SQLAlchemy reads as the user name and the password."""
_AS_HOST = re.compile(r"[^:/]*(?::[0-9]*/|(?::[0-9]*)?[?#])")
"""Such a part that could also be a host with a port."""
_PUBLIC = {
    *("application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "port"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "sslmode"),
    *("target_session_attrs", "tcp_user_timeout", "timeout"),
}
"""URL options that may be shown; the value of any other option may be a secret."""
_PUBLIC_VALUE = re.compile(r"[\w.,:/-]*")
_MIN_MASKED_LENGTH = 4
"""Secrets of at least so many characters are masked everywhere, shorter ones only in quotes."""
_FORM = (
    "write postgresql://USER:PASSWORD@HOST:PORT/NAME and percent-encode special characters of the "
    "user name and the password (@ as %40, / as %2F, # as %23)"
)


def storage_url(storage: str | None, study: str, folder: Path) -> str:
    """Return the database URL with a driver and, for SQLite, an absolute path.

    Relative SQLite paths are relative to `folder`. If `storage` is None, the URL is that of
    runs/<study>/study.db in the current directory. Raises StorageError.
    """
    if storage is None:
        return _sqlite_url(Path("runs", study, "study.db").resolve())
    text = storage.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise StorageError(
            "storage is not a database URL: it has no scheme; write sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        )
    if _has_controls(text):
        raise StorageError(
            f"storage {scheme}://...: the URL contains control characters, or bytes that are not "
            "UTF-8; remove them, or percent-encode them in a user name or password"
        )
    dialect, _, driver = scheme.lower().partition("+")
    dialect = "postgresql" if dialect == "postgres" else dialect
    if dialect not in _DRIVERS:
        raise StorageError(f"storage {redacted(text)}: only sqlite and postgresql are supported")
    driver = driver or _DRIVERS[dialect][0]
    _check_driver(text, dialect, driver)
    if dialect == "sqlite":
        return _read_sqlite(text, rest, folder)
    return _read_postgres(text, rest, driver)


def sqlite_path(url: str | URL) -> Path | None:
    """Return the path of a SQLite URL; None for other databases.

    Raises StorageError for a database in memory.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise StorageError("storage sqlite:// needs a file: sqlite:///FILE")
    return Path(parsed.database)


def redacted(url: str) -> str:
    """Return the URL with its password replaced by `***`.

    An ambiguous URL is reduced to its scheme, and one whose options may contain a secret to its
    scheme and host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "(a URL without a scheme)"
    if scheme.lower().startswith("sqlite") and rest.startswith("/"):
        path, _, query = rest.partition("?")
        return printable(f"{scheme}://{path}{_public_query(query) or '?...' if query else ''}")
    parts = _PLAIN.fullmatch(rest)
    if parts is None or not url.isprintable() or " " in url:
        return f"{scheme}://..."
    options = _public_query(parts["query"] or "")
    if options is None:
        return f"{scheme}://{parts['host']}/..."
    user = "" if parts["user"] is None else f"{parts['user']}{':***' if parts['password'] else ''}@"
    port, database = parts["port"] or "", parts["database"] or ""
    return f"{scheme}://{user}{parts['host']}{port}{database}{options}"


def without_secrets(text: str, url: str) -> str:
    """Return a driver's message with the possible secrets of this URL masked.

    Any part of an ambiguous URL may be the password, so everything that the driver quotes is
    masked then.
    """
    parsed, rest = make_url(url), url.partition("://")[2]
    is_sqlite = parsed.get_backend_name() == "sqlite"
    parts = None if is_sqlite else _PLAIN.fullmatch(rest)
    password = str(parsed.password or "")
    secrets = {password, *re.split(r"\W", password)}
    for value in parsed.query.values():
        secrets.update([value] if isinstance(value, str) else value)
    if parts is None and not is_sqlite:
        text = re.sub(r"\"[^\"]*\"|'[^']*'", '"***"', text)
        secrets.update(re.split(r"[:/?#@&=]", rest))
    public = {parsed.username, parsed.database, parsed.host} if parts is not None else set()
    for secret in sorted(secrets - public, key=len, reverse=True):
        text = text.replace(f'"{secret}"', '"***"')
        if len(secret) >= _MIN_MASKED_LENGTH:
            text = text.replace(secret, "***")
    return text


def printable(text: str) -> str:
    """Return the text with control characters escaped, so that a terminal does not execute them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _public_query(query: str) -> str | None:
    """Return the options of a URL with a leading `?`; None if one of them may be a secret."""
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    if all(key in _PUBLIC and _PUBLIC_VALUE.fullmatch(value) for key, _, value in pairs):
        return f"?{query}" if query else ""
    return None


def _check_driver(text: str, dialect: str, driver: str) -> None:
    if driver not in _DRIVERS[dialect]:
        raise StorageError(
            f"storage {redacted(text)}: the driver {driver} is not supported; write {dialect}://"
        )
    if dialect == "postgresql" and importlib.util.find_spec(driver) is None:
        package = {"psycopg2": "psycopg2-binary"}.get(driver, driver)
        raise StorageError(
            f"storage {redacted(text)}: the driver {driver} is not installed; pip install {package}"
        )


def _read_postgres(text: str, rest: str, driver: str) -> str:
    ambiguous = StorageError(
        f"storage {redacted(text)}: the URL is ambiguous or incomplete; {_FORM}"
    )
    try:
        url = make_url(f"postgresql+{driver}://{rest}")
    except (ArgumentError, ValueError):  # their text may quote a part of the password
        raise ambiguous from None
    user = _USER.match(rest)
    if user is not None and ("@" in rest[user.end() :] or _AS_HOST.match(user[0])):
        raise ambiguous
    if url.host and not re.fullmatch(r"[\w.,-]+|[0-9A-Fa-f:.]+", url.host):
        raise ambiguous
    return f"postgresql+{driver}://{rest}"  # not normalized, so that `redacted` sees ambiguities


def _read_sqlite(text: str, rest: str, folder: Path) -> str:
    location, _, query = rest.partition("?")
    if not location.startswith("/"):
        raise StorageError(
            f"storage {redacted(text)}: SQLite needs a file: write sqlite:///FILE, or "
            "sqlite:////FOLDER/FILE for an absolute path"
        )
    database = make_url(f"sqlite://{location}").database or ""
    options = dict(parse_qsl(query, keep_blank_values=True))
    if database.startswith("file:") or "uri" in options:
        raise StorageError(
            f"storage {redacted(text)}: file: URIs of SQLite are not supported; write "
            "sqlite:///FILE, or sqlite:////FOLDER/FILE for an absolute path"
        )
    if database in ("", ":memory:"):
        raise StorageError(
            f"storage {redacted(text)}: a study needs a file, because a database in memory is lost "
            "with its process; write sqlite:///FILE"
        )
    if options.keys() - {"timeout"} or not re.fullmatch(r"[0-9]{1,6}", options.get("timeout", "0")):
        raise StorageError(
            f"storage {redacted(text)}: the only option of a SQLite URL is timeout, in whole "
            "seconds"
        )
    if _has_controls(database):
        raise StorageError(f"storage {redacted(text)}: the path contains control characters")
    path = _with_home(Path(database), text)
    if not path.is_absolute():
        path = Path(os.path.realpath(folder / path))
    return _sqlite_url(path, options)


def _sqlite_url(path: Path, options: Mapping[str, str] = MappingProxyType({})) -> str:
    if _has_controls(str(path)):
        raise StorageError(
            f"storage: the path {printable(str(path))} contains control characters, or bytes that "
            "are not UTF-8"
        )
    url = URL.create("sqlite", database=str(path), query=options)
    text = url.render_as_string(hide_password=False)
    if make_url(text).database != str(path):  # before 2.1 SQLAlchemy did not encode a path
        raise StorageError(
            f"storage: the path {path} contains characters that a URL cannot contain; choose "
            "another path"
        )
    return text


def _with_home(path: Path, text: str) -> Path:
    """Replace ~ and ~USER with the home folder, as a shell does."""
    if path.parts[0] != "~" and not (path.parts[0].startswith("~") and len(path.parts) > 1):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        raise StorageError(
            f"storage {redacted(text)}: there is no home folder for {printable(path.parts[0])}"
        ) from None
