"""Which stored study is which: two of the same name in two databases are told apart."""

import hashlib
from typing import Any

import optuna
from optuna.storages._rdb import models
from sqlalchemy import select

from storage.database.database import Database


def study_identity(database: Database, study: optuna.Study) -> str | None:
    """A digest of the study's name and of the moment at which its first trial began; None before
    that. It goes with a database that is moved or copied, and writes nothing into it.
    """
    trial: Any = models.TrialModel.__table__.c
    query = select(trial.datetime_start).where(
        (trial.study_id == study._study_id) & (trial.number == 0)
    )

    def read() -> str | None:
        with database.engine.connect() as connection:
            began = connection.execute(query).scalar()
        if began is None:
            return None
        text = f"{study.study_name} {began.isoformat()}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    return database.patience(read)
