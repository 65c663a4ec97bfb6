"""Distinguish studies of the same name in different databases."""

import hashlib
from typing import Any

import optuna
from sqlalchemy import select

from storage.database.database import Database
from storage.database.optuna_internals import TrialModel, study_id


def study_identity(database: Database, study: optuna.Study) -> str | None:
    """Return a digest of the study's name and its first trial's start; None before that trial.

    The digest stays the same when the database is moved or copied. Nothing is written.
    """
    trial: Any = TrialModel.__table__.c
    query = select(trial.datetime_start).where(
        (trial.study_id == study_id(study)) & (trial.number == 0)
    )

    def read() -> str | None:
        with database.engine.connect() as connection:
            start = connection.execute(query).scalar()
        if start is None:
            return None
        text = f"{study.study_name} {start.isoformat()}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    return database.retry(read)
