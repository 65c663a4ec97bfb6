"""Database URLs: SQLite by default, Postgres by URL, passwords never shown."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import StorageError


def storage_url(given: str | None, study: str, folder: Path) -> str:
    """The URL to open: as given, with a driver and an absolute path, or the study's own file.

    Relative SQLite paths count from `folder`; the default is runs/<study>/study.db under the
    current directory. Raises StorageError.
    """
    if given is None:
        return f"sqlite:///{Path('runs', study, 'study.db').resolve()}"
    if "://" not in given:
        raise StorageError(
            f"storage {given!r} is not a URL; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # their text may quote a part of the password
        raise StorageError(
            "storage is not a database URL; write postgresql://USER:PASSWORD@HOST:PORT/NAME, "
            "special characters of the password percent-encoded"
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg2")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StorageError(f"storage {redacted(given)}: only sqlite and postgresql are supported")
    path = sqlite_path(url)
    if path is not None and not path.is_absolute():
        url = url.set(database=str((folder / path).resolve()))
    return url.render_as_string(hide_password=False)


def sqlite_path(url: str | URL) -> Path | None:
    """The file of a SQLite URL; None for other databases. Raises StorageError for memory."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        return None
    if not made.database or made.database == ":memory:":
        raise StorageError("storage sqlite:// needs a file: sqlite:///FILE")
    return Path(made.database)


def redacted(url: str) -> str:
    """The URL with its password hidden."""
    return make_url(url).render_as_string(hide_password=True)


def without_password(url: str) -> str:
    """The URL to write down: the password has to come from elsewhere."""
    made = make_url(url)
    return URL.create(
        made.drivername, made.username, None, made.host, made.port, made.database, made.query
    ).render_as_string(hide_password=False)
