"""Store the scores of each trial, question by question, in a table beside Optuna's.

The table has one row for each trial, task and split. Scores are compressed float32 arrays in the
order of the questions' ids. Q: questions.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.orm import Session

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.decoding import decoding
from storage.database.optuna_internals import TrialModel
from storage.database.tables import trial_answers, trial_scores, trials
from storage.database.url import printable

from .answers import StoredAnswers, read_answers, replace_answers

Floats = NDArray[np.float32]
SEARCH, HELD_OUT = "search", "held_out"


@dataclass(frozen=True)
class StoredScores:
    """The scores of one trial in one task; NaN for questions that were not asked."""

    weight: float
    scores_Q: Floats
    soft_Q: Floats
    """The probability of the correct answer; equal to `scores_Q` if the task has none."""
    non_finite: int
    """The number of answers with a NaN or infinite log-probability."""
    answers: StoredAnswers | None = None
    """The scored answers; None if they are not to be stored. Scores are read back without them."""


class ScoreStore:
    """Reads and writes the scores and answers of all trials in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, trial_id: int, split: str, tasks: Mapping[str, StoredScores]) -> None:
        """Store a trial's scores by task in one transaction; they replace earlier ones."""

        def work() -> None:
            with writing(self._database.engine) as session:
                insert_scores(session, trial_id, split, tasks)

        self._database.retry(work)

    def read(self, trial_id: int, split: str) -> dict[str, StoredScores]:
        """Return a trial's scores by task; empty if none are stored."""
        return self.read_many([trial_id], split).get(trial_id, {})

    def read_many(self, trial_ids: Sequence[int], split: str) -> dict[int, dict[str, StoredScores]]:
        """Return the scores of several trials, by trial id and task."""
        wanted = trial_scores.c.trial_id.in_(trial_ids) & (trial_scores.c.split == split)
        query = select(trial_scores).where(wanted)

        def work() -> Sequence[RowMapping]:
            with self._database.engine.connect() as connection:
                return connection.execute(query).mappings().all()

        return self._by_trial(work)

    def read_all(self, study_id: int, split: str) -> dict[int, dict[str, StoredScores]]:
        """Return the scores of all trials of a study, by trial id and task."""
        own = select(TrialModel.trial_id).where(TrialModel.study_id == study_id)
        query = select(trial_scores).where(
            trial_scores.c.split == split, trial_scores.c.trial_id.in_(own)
        )

        def work() -> Sequence[RowMapping]:
            with self._database.engine.connect() as connection:
                return connection.execute(query).mappings().all()

        return self._by_trial(work)

    def _by_trial(
        self, work: Callable[[], Sequence[RowMapping]]
    ) -> dict[int, dict[str, StoredScores]]:
        scores: dict[int, dict[str, StoredScores]] = {}
        for row in self._database.retry(work):
            scores.setdefault(row["trial_id"], {})[row["task"]] = _decode(row)
        return scores

    def read_answers(self, trial_id: int, split: str) -> dict[str, StoredAnswers]:
        """Return a trial's answers by task; empty if none are stored."""
        return read_answers(self._database, trial_id, split)

    def remove_orphans(self) -> None:
        """Delete the scores and answers of trials that do not exist.

        On SQLite another program can delete a study and leave them behind, and a new trial may
        get the id of a deleted one.
        """
        with writing(self._database.engine) as session:
            for table in (trial_scores, trial_answers):
                orphaned = table.c.trial_id.not_in(select(trials.c.trial_id))
                session.execute(delete(table).where(orphaned))


def insert_scores(
    session: Session, trial_id: int, split: str, tasks: Mapping[str, StoredScores]
) -> None:
    """Replace the stored scores and answers of a trial and split, in the caller's transaction."""
    rows = [
        {
            "trial_id": trial_id,
            "task": name,
            "split": split,
            "weight": task.weight,
            "questions": len(task.scores_Q),
            "scores": _pack(task.scores_Q),
            "soft": _pack(task.soft_Q),
            "broken": task.non_finite,
        }
        for name, task in tasks.items()
    ]
    same = (trial_scores.c.trial_id == trial_id) & (trial_scores.c.split == split)
    session.execute(delete(trial_scores).where(same))
    if rows:
        session.execute(insert(trial_scores), rows)
    answers = {name: task.answers for name, task in tasks.items() if task.answers is not None}
    replace_answers(session, trial_id, split, answers)


def _decode(row: RowMapping) -> StoredScores:
    """Raises StorageError if the row cannot be decoded."""
    with decoding(f"the scores of trial {row['trial_id']} in task {printable(row['task'])}"):
        scores_Q, soft_Q = _unpack(row["scores"]), _unpack(row["soft"])
    return StoredScores(row["weight"], scores_Q, soft_Q, row["broken"])


def _pack(values: Floats) -> bytes:
    return zlib.compress(values.astype("<f4").tobytes())


def _unpack(data: bytes) -> Floats:
    return np.frombuffer(zlib.decompress(data), dtype="<f4")
