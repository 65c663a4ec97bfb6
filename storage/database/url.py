"""Database URLs: read strictly, completed with a driver, and shown without anything secret."""

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
"""The drivers that are supported, the default first."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*")
_PLAIN = re.compile(
    r"""(?:(?P<user>[^:/?\#@]*)(?P<password>:[^/?\#@]*)?@)?
        (?P<host>[\w.,-]*|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]*)?
        (?P<database>/[^/?\#@]*)?
        (?:\?(?P<query>[^\#@]*))?""",
    re.VERBOSE,
)
"""A URL after its scheme that can be read in one way only: no delimiter occurs twice."""
_USER = re.compile(r"[^:/]*(?::[^@]*)?@")
"""What SQLAlchemy takes for the user name and the password."""
_AS_HOST = re.compile(r"[^:/]*(?::[0-9]*/|(?::[0-9]*)?[?#])")
"""The beginning of one that could as well be a host with a port and what follows it."""
_PUBLIC = {
    *("application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "port"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "sslmode"),
    *("target_session_attrs", "tcp_user_timeout", "timeout"),
}
"""Options in a URL that may be shown; any other may be a secret."""
_PUBLIC_VALUE = re.compile(r"[\w.,:/-]*")
_WORTH_MASKING = 4
"""Characters of a secret from which on each occurrence in a message is masked, quoted or not."""
_FORM = (
    "write postgresql://USER:PASSWORD@HOST:PORT/NAME and percent-encode special characters of the "
    "user name and the password (@ as %40, / as %2F, # as %23)"
)


def storage_url(given: str | None, study: str, folder: Path) -> str:
    """Return the URL to open: as given, with a driver and an absolute path, or the study's file.

    Relative SQLite paths count from `folder`; the default is runs/<study>/study.db under the
    current directory. Raises StorageError.
    """
    if given is None:
        return _sqlite_url(Path("runs", study, "study.db").resolve())
    text = given.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise StorageError(
            "storage is not a database URL: it has no scheme; write sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        )
    if _has_controls(text):
        raise StorageError(
            f"storage {scheme}://...: the URL contains control characters, or bytes that are not "
            "UTF-8; remove them, or percent-encode them in a user name or a password"
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
    """The file of a SQLite URL; None for other databases. Raises StorageError for memory."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        return None
    if not made.database or made.database == ":memory:":
        raise StorageError("storage sqlite:// needs a file: sqlite:///FILE")
    return Path(made.database)


def redacted(url: str) -> str:
    """Return the URL as it may be shown: its password is `***`.

    Of a URL that can be read in more than one way only the scheme is shown, and of one whose
    options may contain a secret the scheme and the host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "(a URL without a scheme)"
    if scheme.lower().startswith("sqlite") and rest.startswith("/"):
        path, _, query = rest.partition("?")
        return printable(f"{scheme}://{path}{_shown_query(query) or '?...' if query else ''}")
    parts = _PLAIN.fullmatch(rest)
    if parts is None or not url.isprintable() or " " in url:
        return f"{scheme}://..."
    options = _shown_query(parts["query"] or "")
    if options is None:
        return f"{scheme}://{parts['host']}/..."
    user = "" if parts["user"] is None else f"{parts['user']}{':***' if parts['password'] else ''}@"
    port, database = parts["port"] or "", parts["database"] or ""
    return f"{scheme}://{user}{parts['host']}{port}{database}{options}"


def without_secrets(text: str, url: str) -> str:
    """Return a driver's message without what may be a secret of this URL.

    Of a URL that can be read in more than one way any part may be the password, so that all that
    the driver quotes is masked.
    """
    made, rest = make_url(url), url.partition("://")[2]
    parts = None if made.get_backend_name() == "sqlite" else _PLAIN.fullmatch(rest)
    password = str(made.password or "")
    secrets = {password, *re.split(r"\W", password)}
    for value in made.query.values():
        secrets.update([value] if isinstance(value, str) else value)
    if parts is None and made.get_backend_name() != "sqlite":
        text = re.sub(r"\"[^\"]*\"|'[^']*'", '"***"', text)
        secrets.update(re.split(r"[:/?#@&=]", rest))
    public = {made.username, made.database, made.host} if parts is not None else set()
    for secret in sorted(secrets - public, key=len, reverse=True):
        text = text.replace(f'"{secret}"', '"***"')
        if len(secret) >= _WORTH_MASKING:
            text = text.replace(secret, "***")
    return text


def printable(text: str) -> str:
    """Return the text with control characters escaped, so that a terminal only shows them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _shown_query(query: str) -> str | None:
    """The options of a URL, or None if one of them may be a secret."""
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
    wrong = StorageError(f"storage {redacted(text)}: the URL is ambiguous or incomplete; {_FORM}")
    try:
        url = make_url(f"postgresql+{driver}://{rest}")
    except (ArgumentError, ValueError):  # their text may quote a part of the password
        raise wrong from None
    user = _USER.match(rest)
    if user is not None and ("@" in rest[user.end() :] or _AS_HOST.match(user[0])):
        raise wrong
    if url.host and not re.fullmatch(r"[\w.,-]+|[0-9A-Fa-f:.]+", url.host):
        raise wrong
    return f"postgresql+{driver}://{rest}"  # as it was written, so that `redacted` knows its doubts


def _read_sqlite(text: str, rest: str, folder: Path) -> str:
    place, _, query = rest.partition("?")
    if not place.startswith("/"):
        raise StorageError(
            f"storage {redacted(text)}: SQLite needs a file: write sqlite:///FILE, or "
            "sqlite:////FOLDER/FILE for an absolute path"
        )
    database = make_url(f"sqlite://{place}").database or ""
    options = dict(parse_qsl(query, keep_blank_values=True))
    if database.startswith("file:") or "uri" in options:
        raise StorageError(
            f"storage {redacted(text)}: file: URIs of SQLite are not supported; write "
            "sqlite:///FILE, or sqlite:////FOLDER/FILE for an absolute path"
        )
    if database in ("", ":memory:"):
        raise StorageError(
            f"storage {redacted(text)}: a study needs a file, as a database in memory is lost with "
            "its process; write sqlite:///FILE"
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
        raise StorageError(f"storage: the path {path} contains characters that a URL cannot")
    return text


def _with_home(path: Path, text: str) -> Path:
    """Replace ~ and ~USER by the home folder, as a shell does."""
    if path.parts[0] != "~" and not (path.parts[0].startswith("~") and len(path.parts) > 1):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        raise StorageError(
            f"storage {redacted(text)}: there is no home folder for {printable(path.parts[0])}"
        ) from None
