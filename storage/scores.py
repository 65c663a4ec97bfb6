"""Every trial's per-question scores, in a table of ours beside Optuna's.

One row for each trial, task and split: float32 arrays in the order of the questions' ids,
compressed. Q: questions.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.storages._rdb import models
from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.orm import Session

from storage.database.connections import writing
from storage.database.database import Database, readable
from storage.database.tables import answers as _answers
from storage.database.tables import replies as _replies
from storage.database.tables import trials as _trials
from storage.database.url import printable

from .answers import TaskReplies, insert_replies, read_replies

Floats = NDArray[np.float32]
SEARCH, HELD_OUT = "search", "held_out"


@dataclass(frozen=True)
class TaskAnswers:
    """What one trial got in one task; NaN for questions that it was not asked."""

    weight: float
    right_Q: Floats
    soft_Q: Floats
    broken: int
    said: TaskReplies | None = None
    """What the scores were made of; None where it is not to be stored, and as read back."""


class Answers:
    """The answers of every trial in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, trial_id: int, split: str, tasks: Mapping[str, TaskAnswers]) -> None:
        """Store a trial's answers in one transaction; written again, they replace the old."""

        def work() -> None:
            with writing(self._database.engine) as session:
                insert_answers(session, trial_id, split, tasks)

        self._database.patience(work)

    def read(self, trial_id: int, split: str) -> dict[str, TaskAnswers]:
        """A trial's answers by task; empty where it has none."""
        return self.read_many([trial_id], split).get(trial_id, {})

    def read_many(self, trial_ids: Sequence[int], split: str) -> dict[int, dict[str, TaskAnswers]]:
        """The same for several trials, by their ids."""
        wanted = _answers.c.trial_id.in_(trial_ids) & (_answers.c.split == split)
        query = select(_answers).where(wanted)

        def work() -> Sequence[RowMapping]:
            with self._database.engine.connect() as connection:
                return connection.execute(query).mappings().all()

        return self._by_trial(work)

    def read_all(self, study_id: int, split: str) -> dict[int, dict[str, TaskAnswers]]:
        """The answers of all of a study's trials, by the trial's id and the task."""
        own = select(models.TrialModel.trial_id).where(models.TrialModel.study_id == study_id)
        query = select(_answers).where(_answers.c.split == split, _answers.c.trial_id.in_(own))

        def work() -> Sequence[RowMapping]:
            with self._database.engine.connect() as connection:
                return connection.execute(query).mappings().all()

        return self._by_trial(work)

    def _by_trial(
        self, work: Callable[[], Sequence[RowMapping]]
    ) -> dict[int, dict[str, TaskAnswers]]:
        found: dict[int, dict[str, TaskAnswers]] = {}
        for row in self._database.patience(work):
            found.setdefault(row["trial_id"], {})[row["task"]] = _task(row)
        return found

    def replies(self, trial_id: int, split: str) -> dict[str, TaskReplies]:
        """What a trial said, by task; empty where that was not stored."""
        return read_replies(self._database, trial_id, split)

    def sweep(self) -> None:
        """Drop answers whose trial is gone.

        On SQLite others can delete a study without them, and a new trial may get an old id.
        """
        with writing(self._database.engine) as session:
            for table in (_answers, _replies):
                orphaned = table.c.trial_id.not_in(select(_trials.c.trial_id))
                session.execute(delete(table).where(orphaned))


def insert_answers(
    session: Session, trial_id: int, split: str, tasks: Mapping[str, TaskAnswers]
) -> None:
    """Put a trial's answers in the place of those it has, within a transaction."""
    rows = [
        {
            "trial_id": trial_id,
            "task": name,
            "split": split,
            "weight": task.weight,
            "questions": len(task.right_Q),
            "scores": _packed(task.right_Q),
            "soft": _packed(task.soft_Q),
            "broken": task.broken,
        }
        for name, task in tasks.items()
    ]
    same = (_answers.c.trial_id == trial_id) & (_answers.c.split == split)
    session.execute(delete(_answers).where(same))
    if rows:
        session.execute(insert(_answers), rows)
    said = {name: task.said for name, task in tasks.items() if task.said is not None}
    insert_replies(session, trial_id, split, said)


def _task(row: RowMapping) -> TaskAnswers:
    with readable(f"the answers of trial {row['trial_id']} in task {printable(row['task'])}"):
        scores, soft = _unpacked(row["scores"]), _unpacked(row["soft"])
    return TaskAnswers(row["weight"], scores, soft, row["broken"])


def _packed(values: Floats) -> bytes:
    return zlib.compress(values.astype("<f4").tobytes())


def _unpacked(data: bytes) -> Floats:
    return np.frombuffer(zlib.decompress(data), dtype="<f4")
