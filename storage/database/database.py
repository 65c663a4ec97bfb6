"""Opens databases: SQLite files and Postgres, with Optuna's tables and ours in them."""

import contextlib
import copy
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from storage.errors import StorageError

from .connections import engine_options, exclusive, make_engine, prepare, use_write_ahead_log
from .retry import Patience, cause
from .tables import NEEDED, OURS, metadata
from .url import redacted, sqlite_path

_OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}


class Database(RDBStorage):
    """Optuna's storage, except that the parameters of a new trial are inserted together.

    Optuna asks the database two questions before each parameter (96 for 48); what they would
    find out, that the space is the study's, the study's fingerprint has told already.
    """

    patience = Patience(0)
    """What our own reads and writes go through; a run puts a longer one here."""

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

    def insert_trial(self, session: Session, study_id: int, template: FrozenTrial) -> int:
        """Create a trial within a transaction of the caller's; gives its id.

        Raises KeyError where there is no such study.
        """
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        trial = self._get_prepared_new_trial(study_id, template, session)
        session.flush()
        return int(trial.trial_id)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """One process at a time: for what a study is made of at its start."""
        with exclusive(self.engine, self.url):
            yield


def open_storage(url: str, create: bool = True) -> Database:
    """Optuna's storage at a URL; with `create` all tables are made. Raises StorageError."""
    path = sqlite_path(url)
    if path is not None:
        _prepare_file(path, create)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        engine = make_engine(url)
        try:
            _check_tables(url, engine, create)
            with exclusive(engine, url) if create else contextlib.nullcontext():
                storage = Database(
                    url, engine_kwargs=engine_options(url), skip_table_creation=not create
                )
                if create:
                    metadata.create_all(engine, tables=OURS)
        finally:
            engine.dispose()
    except StorageError:
        raise
    except (SQLAlchemyError, OSError, sqlite3.Error, RuntimeError) as error:
        remedy = "is the server up, and are host, port, user, password and name right?"
        hint = "" if path is not None else f"; {remedy}"
        raise StorageError(f"cannot use {redacted(url)}: {cause(error)}{hint}") from None
    prepare(storage.engine)
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
        use_write_ahead_log(path)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot use {path} as a SQLite database: {error}") from None


def _check_tables(url: str, engine: Engine, create: bool) -> None:
    tables = set(inspect(engine).get_table_names())
    if tables and not tables & _OPTUNA_TABLES:
        raise StorageError(
            f"{redacted(url)} is no Optuna database: it holds {', '.join(sorted(tables)[:3])}; "
            "give the study a database of its own"
        )
    needed = _OPTUNA_TABLES | {table.name for table in NEEDED}
    if not create and not (tables >= needed and _is_stamped(engine)):
        raise StorageError(f"{redacted(url)} holds no studies of this project yet")


def _is_stamped(engine: Engine) -> bool:
    """Whether Optuna has finished making its tables; before that, only their maker may write."""
    with engine.connect() as connection:
        return (
            connection.execute(select(text("version_num FROM alembic_version"))).first() is not None
        )
