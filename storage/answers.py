"""Every trial's per-question scores, in a table of ours beside Optuna's.

One row for each trial, task and split: float32 arrays in the order of the questions' ids,
compressed. Q: questions.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)

Floats = NDArray[np.float32]
SEARCH, HELD_OUT = "search", "held_out"

_tables = MetaData()
_trials = Table("trials", _tables, Column("trial_id", Integer, primary_key=True))
_answers = Table(
    "trial_answers",
    _tables,
    Column("trial_id", ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True),
    Column("task", String(255), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("weight", Float(53), nullable=False),
    Column("questions", Integer, nullable=False),
    Column("scores", LargeBinary, nullable=False),
    Column("soft", LargeBinary, nullable=False),
    Column("broken", Integer, nullable=False),
)


@dataclass(frozen=True)
class TaskAnswers:
    """What one trial got in one task."""

    weight: float
    right_Q: Floats
    soft_Q: Floats
    broken: int


class Answers:
    """The table, over an engine whose database already holds Optuna's tables."""

    def __init__(self, engine: Engine, create: bool = True) -> None:
        self._engine = engine
        if create:
            _tables.create_all(engine, tables=[_answers])

    def write(self, trial_id: int, split: str, tasks: Mapping[str, TaskAnswers]) -> None:
        """Store a trial's answers in one transaction; written again, they replace the old."""
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
        with self._engine.begin() as connection:
            connection.execute(
                delete(_answers).where(_answers.c.trial_id == trial_id, _answers.c.split == split)
            )
            connection.execute(insert(_answers), rows)

    def read(self, trial_id: int, split: str) -> dict[str, TaskAnswers]:
        """A trial's answers by task; empty where it has none."""
        query = select(_answers).where(_answers.c.trial_id == trial_id, _answers.c.split == split)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return {
            row["task"]: TaskAnswers(
                row["weight"], _unpacked(row["scores"]), _unpacked(row["soft"]), row["broken"]
            )
            for row in rows
        }

    def sweep(self) -> None:
        """Drop answers whose trial is gone.

        On SQLite others can delete a study without them, and a new trial may get an old id.
        """
        with self._engine.begin() as connection:
            orphaned = _answers.c.trial_id.not_in(select(_trials.c.trial_id))
            connection.execute(delete(_answers).where(orphaned))


def _packed(values: Floats) -> bytes:
    return zlib.compress(values.astype("<f4").tobytes())


def _unpacked(data: bytes) -> Floats:
    return np.frombuffer(zlib.decompress(data), dtype="<f4")
