"""Opens databases: SQLite files and Postgres, with Optuna's tables in them."""

import contextlib
import copy
import sqlite3
from pathlib import Path

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from .url import StorageError, redacted, sqlite_path

_OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}
_CONNECT_SECONDS = 10


class Database(RDBStorage):
    """Optuna's storage, except that the parameters of a new trial are inserted together.

    Optuna asks the database two questions before each parameter (96 for 48); what they would
    find out, that the space is the study's, the study's fingerprint has told already.
    """

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        if template_trial is None or not template_trial.params:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        bare = copy.copy(template_trial)
        bare.params, bare.distributions = {}, {}
        trial = super()._get_prepared_new_trial(study_id, bare, session)
        rows = [
            {
                "trial_id": trial.trial_id,
                "param_name": name,
                "param_value": template_trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(template_trial.distributions[name]),
            }
            for name, value in template_trial.params.items()
        ]
        session.execute(insert(models.TrialParamModel), rows)
        return trial


def open_storage(url: str, create: bool = True) -> Database:
    """Optuna's storage at a URL; with `create` its tables are made. Raises StorageError."""
    path = sqlite_path(url)
    if path is not None:
        _prepare_file(path, create)
    seconds = {"timeout": 60} if path is not None else {"connect_timeout": _CONNECT_SECONDS}
    options = {"pool_pre_ping": True, "connect_args": seconds}
    try:
        engine = create_engine(url, **options)
        try:
            _check_tables(url, engine, create)
        finally:
            engine.dispose()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = Database(url, engine_kwargs=options, skip_table_creation=not create)
    except StorageError:
        raise
    except (SQLAlchemyError, OSError, sqlite3.Error, RuntimeError) as error:
        remedy = "is the server up, and are host, port, user, password and name right?"
        hint = "" if path is not None else f"; {remedy}"
        raise StorageError(f"cannot use {redacted(url)}: {cause(error)}{hint}") from None
    if path is not None:
        event.listen(storage.engine, "connect", _enforce_foreign_keys)
        storage.engine.dispose()
    return storage


def _prepare_file(path: Path, create: bool) -> None:
    """Make the folder and turn on write-ahead logging. Raises StorageError."""
    if not create:
        if not path.exists():
            raise StorageError(f"there is no database {path}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot use {path} as a SQLite database: {error}") from None


def _check_tables(url: str, engine: Engine, create: bool) -> None:
    tables = set(inspect(engine).get_table_names())
    if tables and not tables & _OPTUNA_TABLES:
        raise StorageError(
            f"{redacted(url)} is no Optuna database: it holds {', '.join(sorted(tables)[:3])}; "
            "give the study a database of its own"
        )
    if not create and not (tables >= _OPTUNA_TABLES and _is_stamped(engine)):
        raise StorageError(f"{redacted(url)} holds no studies yet")


def _is_stamped(engine: Engine) -> bool:
    """Whether Optuna has finished making its tables; before that, only their maker may write."""
    with engine.connect() as connection:
        return (
            connection.execute(select(text("version_num FROM alembic_version"))).first() is not None
        )


def _enforce_foreign_keys(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


def cause(error: Exception) -> str:
    """What the driver said, in one line."""
    if isinstance(error, StorageInternalError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    original = error.orig if isinstance(error, DBAPIError) else None
    return " ".join(str(original or error).split())
