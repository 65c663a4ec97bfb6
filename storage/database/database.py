"""Opens databases: SQLite files and Postgres, with Optuna's tables and ours in them."""

import contextlib
import copy
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, insert, inspect, select
from sqlalchemy.orm import Session

from storage.errors import StorageError

from .connections import (
    engine_options,
    exclusive,
    make_engine,
    prepare,
    use_write_ahead_log,
    wait_for_answer,
)
from .reasons import explained
from .retry import Patience
from .rights import check_place, check_tables, check_version, stored_version
from .tables import NEEDED, OURS, metadata
from .url import printable, redacted, sqlite_path

_NEEDED = {"studies", "trials", "version_info", "alembic_version"} | {t.name for t in NEEDED}


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

    def study_names(self) -> list[str]:
        """The names of all studies, without their attributes: another program's may be broken."""
        with self.engine.connect() as connection:
            query = select(models.StudyModel.study_name)
            return sorted(connection.execute(query).scalars())

    @staticmethod
    def _fill_storage_url_template(template: str) -> str:
        return template  # a brace in a password or a path is no placeholder

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with readable("an attribute of the study"):
            return super().get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with readable("a system attribute of the study"):
            return super().get_study_system_attrs(study_id)

    def _build_frozen_trial_from_trial_model(self, trial: models.TrialModel) -> FrozenTrial:
        with readable(f"an attribute of the trial with id {trial.trial_id}"):
            return super()._build_frozen_trial_from_trial_model(trial)


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what cannot be decoded into a StorageError that names it."""
    try:
        yield
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        reason = " ".join(printable(str(error)).split())[:200]
        raise StorageError(
            f"{what} cannot be read from the database: {reason}; restore the database from a copy"
        ) from None


def open_storage(url: str, create: bool = True) -> Database:
    """Optuna's storage at a URL; with `create` all tables are made. Raises StorageError."""
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
                storage = Database(
                    url,
                    engine_kwargs=engine_options(url),
                    skip_compatibility_check=True,  # _check has done that
                    skip_table_creation=not create,
                )
                if create:
                    metadata.create_all(engine, tables=OURS)
        finally:
            engine.dispose()
    prepare(storage.engine)
    storage.engine.dispose()
    return storage


def _prepare_file(path: Path, create: bool) -> None:
    """Make the folder and turn on write-ahead logging. Raises StorageError."""
    check_place(path)
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        use_write_ahead_log(path)
    elif not path.exists():
        raise StorageError(f"there is no database {path}")


def _check(url: str, engine: Engine, create: bool) -> None:
    """Check what is in the database already. Raises StorageError."""
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        check_tables(tables, url)
        version = stored_version(connection, tables)
    if not create and not (tables >= _NEEDED and version is not None):
        raise StorageError(f"{redacted(url)} holds no studies of this project yet")
    check_version(version, url)
