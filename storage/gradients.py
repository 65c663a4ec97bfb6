"""Store the gradients from which a search by gradient is replayed.

N: the parameters of the search, in alphabetical order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, delete, insert, inspect, select, true
from sqlalchemy.orm import Session

from storage.database.database import Database
from storage.database.decoding import decoding
from storage.database.tables import trial_gradients

from .errors import StorageError

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class StoredGradient:
    """The derivative of a batch's loss by each parameter, at the parameters of its trial."""

    generation: int
    """The step of the ascent, counted from 0."""
    slot: int
    """The ascent, counted from 0."""
    by_parameter: Mapping[str, float]

    @property
    def vector(self) -> Doubles:
        """The derivatives in the alphabetical order of the parameters, [N]."""
        return np.array([self.by_parameter[name] for name in sorted(self.by_parameter)], np.float64)


def insert_gradient(
    session: Session, study_id: int, trial_id: int, gradient: StoredGradient
) -> None:
    """Replace the stored gradient of a trial, within the caller's transaction."""
    session.execute(delete(trial_gradients).where(trial_gradients.c.trial_id == trial_id))
    row = {
        "trial_id": trial_id,
        "study_id": study_id,
        "generation": gradient.generation,
        "slot": gradient.slot,
        "gradient": gradient.vector.astype("<f8").tobytes(),
    }
    session.execute(insert(trial_gradients), [row])


class GradientStore:
    """The gradients of one study. Each is read from the database once."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._database, self._study_id = database, study_id
        self._gradients: dict[tuple[int, int], Doubles] = {}

    def get(self, generation: int, slot: int) -> Doubles:
        """Return the gradient of a finished step, [N], in the alphabetical order of parameters.

        If the step was taken twice, the gradient of its first trial counts. Raises StorageError if
        the step has no stored gradient.
        """
        if (generation, slot) not in self._gradients:
            columns = trial_gradients.c
            one = (columns.generation == generation) & (columns.slot == slot)
            self._read(one if self._gradients else true())  # the first call reads all
        if (generation, slot) not in self._gradients:
            raise StorageError(f"the gradient of step {generation} of ascent {slot} is not stored")
        return self._gradients[generation, slot]

    def _read(self, condition: ColumnElement[bool]) -> None:
        columns = trial_gradients.c
        query = select(trial_gradients).where(columns.study_id == self._study_id, condition)

        def read() -> Sequence[Any]:
            with self._database.engine.connect() as connection:
                if not inspect(connection).has_table(trial_gradients.name):
                    return []
                return connection.execute(query.order_by(columns.trial_id)).mappings().all()

        with decoding("the gradients of the study"):
            for row in self._database.retry(read):
                values_N = np.frombuffer(row["gradient"], dtype="<f8").astype(np.float64)
                self._gradients.setdefault((row["generation"], row["slot"]), values_N)
