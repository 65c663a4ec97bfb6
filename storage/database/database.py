"""Open a database, SQLite or PostgreSQL, that holds Optuna's tables and ours."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from sqlalchemy import Engine, inspect, select

from storage.errors import StorageError

from .connections import (
    engine_options,
    exclusive,
    make_engine,
    prepare,
    use_write_ahead_log,
    wait_for_answer,
)
from .decoding import decoding
from .optuna_internals import BulkStorage, StudyModel
from .reasons import explained
from .retry import NO_RETRY, RetryPolicy
from .rights import check_file_type, check_tables, check_version, stored_version
from .tables import OUR_TABLES, REQUIRED_TABLES, metadata
from .url import redacted, sqlite_path

_REQUIRED_NAMES = {"studies", "trials", "version_info", "alembic_version"} | {
    table.name for table in REQUIRED_TABLES
}

T = TypeVar("T")


class Database(BulkStorage):
    """An open database. Optuna uses it as its storage."""

    def __init__(self, url: str, create_tables: bool, retry_policy: RetryPolicy) -> None:
        super().__init__(
            url,
            engine_kwargs=engine_options(url),
            skip_compatibility_check=True,  # open_storage has compared the versions
            skip_table_creation=not create_tables,
        )
        self.retry_policy = retry_policy

    def retry(self, work: Callable[[], T]) -> T:
        """Call `work`, again after each transient failure, and return its result.

        `work` must be idempotent. Raises its last error once the retry policy's limit is reached.
        """
        return self.retry_policy(work)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lock on this database that one process at a time can hold."""
        with exclusive(self.engine, self.url):
            yield

    def study_names(self) -> list[str]:
        """Return the sorted names of all studies.

        Attributes are not read, because those that another program wrote may be invalid.
        """
        with self.engine.connect() as connection:
            return sorted(connection.execute(select(StudyModel.study_name)).scalars())

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with decoding("an attribute of the study"):
            return super().get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with decoding("a system attribute of the study"):
            return super().get_study_system_attrs(study_id)


def open_storage(url: str, create: bool = True, retry_policy: RetryPolicy = NO_RETRY) -> Database:
    """Open the database at a URL.

    With `create`, missing folders, files and tables are created. Raises StorageError if the
    database cannot be used, and without `create` also if it does not exist or has no tables.
    `retry_policy` applies to the project's own reads and writes, not to Optuna's.
    """
    path = sqlite_path(url)
    with explained(url):
        if path is not None:
            _prepare_file(path, create)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        engine = make_engine(url)
        try:
            wait_for_answer(engine, url)
            with exclusive(engine, url) if create else contextlib.nullcontext():
                _check(url, engine, create)
                database = Database(url, create_tables=create, retry_policy=retry_policy)
                if create:
                    metadata.create_all(engine, tables=OUR_TABLES)
        finally:
            engine.dispose()
    prepare(database.engine)
    database.engine.dispose()
    return database


def _prepare_file(path: Path, create: bool) -> None:
    """Create the folder and enable write-ahead logging. Raises StorageError."""
    check_file_type(path)
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        use_write_ahead_log(path)
    elif not path.exists():
        raise StorageError(f"there is no database {path}; `run` creates it with the study")


def _check(url: str, engine: Engine, create: bool) -> None:
    """Check the tables that exist already and their schema version. Raises StorageError."""
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        check_tables(tables, url)
        version = stored_version(connection, tables)
    if not create and not (tables >= _REQUIRED_NAMES and version is not None):
        raise StorageError(f"{redacted(url)} does not hold any study of this project")
    check_version(version, url)
