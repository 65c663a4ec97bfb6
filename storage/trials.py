"""Read the trials of a study."""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from storage.database.database import Database
from storage.database.decoding import decoding
from storage.database.optuna_internals import (
    StudyModel,
    TrialModel,
    TrialUserAttributeModel,
    TrialValueModel,
    frozen_trial_id,
    stored_parameters,
    study_id,
)
from storage.database.url import printable

from .errors import STUDY_DELETED, StorageError

BASELINE, KIND, TASKS, RESULT, FAILURE = "baseline", "kind", "tasks", "result", "failure"
GENERATION, SLOT = "generation", "slot"
"""The keys of a trial's attributes. The generation and the slot say which proposal of the search
it evaluates. Its tasks and its result are written in one transaction with its value."""
INTERRUPTED = "Interrupted"
"""The prefix of a failure's reason if a signal ended the run: the name of the exception."""
_RECENT = 20
"""The number of recent trials from which the typical duration is computed."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as it was last read."""

    id: int
    number: int
    state: TrialState
    params: Mapping[str, float]
    """The value of each parameter; of a categorical parameter, the index of its choice."""
    value: float | None
    attributes: Mapping[str, Any]

    @property
    def baseline(self) -> str | None:
        """The name of the baseline; None for a search trial."""
        return self.attributes.get(BASELINE)

    @property
    def kind(self) -> str:
        """`base`, `parent`, `uniform` or `search`."""
        return str(self.attributes.get(KIND, "search"))

    @property
    def tasks(self) -> dict[str, float]:
        """The mean score of each task."""
        return dict(self.attributes.get(TASKS, {}))

    @property
    def objective(self) -> float | None:
        """The number by which the search ranks the trial; often its value. None if incomplete."""
        if self.value is None:
            return None
        return float(self.attributes.get(RESULT, {}).get("objective", self.value))

    @property
    def sampled(self) -> bool:
        """Whether only a sample of the search questions was asked, and the rest estimated."""
        result = self.attributes.get(RESULT, {})
        return bool(result.get("asked", 0) < result.get("questions", 0))

    @property
    def error(self) -> float | None:
        """The standard error of the value over questions; None if unknown."""
        error = self.attributes.get(RESULT, {}).get("error")
        return None if error is None else float(error)

    @property
    def seconds(self) -> dict[str, float]:
        """The duration of each phase of the trial."""
        return dict(self.attributes.get(RESULT, {}).get("seconds", {}))

    @property
    def under_way(self) -> bool:
        """Whether it is running or complete, so that no other trial may evaluate its proposal."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE)

    @property
    def complete(self) -> bool:
        return self.state == TrialState.COMPLETE

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run. Optuna's state is FAIL, although nothing failed."""
        reason = str(self.attributes.get(FAILURE, ""))
        return self.state == TrialState.FAIL and reason.startswith(f"{INTERRUPTED}:")

    @property
    def failed(self) -> bool:
        """Whether the evaluation failed or the worker died."""
        return self.state == TrialState.FAIL and not self.interrupted


class Trials:
    """The trials of one study.

    A finished trial never changes, so each call reads only trials that are new or were unfinished
    at the last call.
    """

    def __init__(self, database: Database, study: optuna.Study) -> None:
        self.database, self.study = database, study
        self._records: dict[int, TrialRecord] = {}
        """By id, in the order of creation."""
        self._unfinished: set[int] = set()
        """Ids of the trials that were not finished when last read."""
        self._last_id = -1
        self._study_number = study_id(study)

    def frozen(self) -> list[FrozenTrial]:
        """Return Optuna's own records. They must not be modified."""
        return self.database.retry(lambda: self.study.get_trials(deepcopy=False))

    def all(self) -> list[TrialRecord]:
        """Return all trials in the order of creation.

        Raises StorageError if the study was deleted or a trial cannot be decoded.
        """
        for record in self.database.retry(self._read_new):
            self._records[record.id] = record
            self._last_id = max(self._last_id, record.id)
            if record.state.is_finished():
                self._unfinished.discard(record.id)
            else:
                self._unfinished.add(record.id)
        return list(self._records.values())

    def _read_new(self) -> list[TrialRecord]:
        """Return new trials and those that were unfinished, in the order of creation.

        States are read first: all data of a trial with a finished state are visible by then. Ids
        increase in the order in which trials become visible, because creating one locks the study.
        """
        number, trial = self._study_number, TrialModel
        wanted = (trial.study_id == number) & (
            (trial.trial_id > self._last_id) | trial.trial_id.in_(sorted(self._unfinished))
        )
        with self.database.engine.connect() as connection:
            heads = connection.execute(
                select(trial.trial_id, trial.number, trial.state)
                .where(wanted)
                .order_by(trial.trial_id)
            ).all()
            if not heads:
                study = select(StudyModel.study_id).where(StudyModel.study_id == number)
                if connection.execute(study).first() is None:
                    raise StorageError(STUDY_DELETED)
                return []
            params = self._params(connection, wanted)
            values = self._values(connection, wanted)
            attributes = self._attributes(connection, wanted)
        return [
            TrialRecord(
                id_,
                number,
                state,
                params.get(id_, {}),
                values.get(id_) if state == TrialState.COMPLETE else None,
                attributes.get(id_, {}),
            )
            for id_, number, state in heads
        ]

    def _params(self, connection: Connection, wanted: Any) -> dict[int, dict[str, float]]:
        """Return parameters by trial id, in the order in which they were stored."""
        params: dict[int, dict[str, float]] = {}
        for parameter in stored_parameters(connection, wanted):
            params.setdefault(parameter.trial_id, {})[parameter.name] = parameter.value
        return params

    def _values(self, connection: Connection, wanted: Any) -> dict[int, float]:
        model = TrialValueModel
        query = (
            select(model.trial_id, model.value, model.value_type)
            .join(TrialModel, TrialModel.trial_id == model.trial_id)
            .where(wanted)
        )
        return {
            id_: model.stored_repr_to_value(value, kind)
            for id_, value, kind in connection.execute(query)
        }

    def _attributes(self, connection: Connection, wanted: Any) -> dict[int, dict[str, Any]]:
        model = TrialUserAttributeModel
        query = (
            select(model.trial_id, model.key, model.value_json)
            .join(TrialModel, TrialModel.trial_id == model.trial_id)
            .where(wanted)
        )
        attributes: dict[int, dict[str, Any]] = {}
        for id_, key, text in connection.execute(query):
            with decoding(f"the attribute {printable(key)} of the trial with id {id_}"):
                attributes.setdefault(id_, {})[key] = _validated(key, json.loads(text))
        return attributes


_TYPES: Mapping[str, type] = {
    **dict.fromkeys((BASELINE, KIND, FAILURE), str),
    **dict.fromkeys((TASKS, RESULT), dict),
    **dict.fromkeys((GENERATION, SLOT), int),
}
_NUMBERS = {"error", "objective", "asked", "questions"}
"""The keys of a result whose values are numbers or None."""


def _validated(key: str, value: Any) -> Any:
    """Return an attribute's value. Raises ValueError if its type is not the one that we store."""
    type_ = _TYPES.get(key, object)
    numbers: list[Any] = []
    if isinstance(value, dict):
        numbers = [n for name, n in value.items() if key == TASKS or name in _NUMBERS]
    if not isinstance(value, type_) or not all(
        isinstance(n, int | float) or (n is None and key == RESULT) for n in numbers
    ):
        raise ValueError(f"{str(value)[:80]!r} is not a value that merge-study writes")
    return value


def record(trial: FrozenTrial) -> TrialRecord:
    """Return the record of one of Optuna's trials."""
    return TrialRecord(
        frozen_trial_id(trial),
        trial.number,
        trial.state,
        {name: trial.distributions[name].to_internal_repr(v) for name, v in trial.params.items()},
        trial.value if trial.state == TrialState.COMPLETE else None,
        trial.user_attrs,
    )


def typical_seconds(records: Sequence[TrialRecord]) -> float:
    """Return the median duration of the most recent complete trials; 0 if there is none."""
    complete = (r for r in reversed(records) if r.complete)
    recent = [sum(r.seconds.values()) for r in itertools.islice(complete, _RECENT)]
    return statistics.median(recent) if recent else 0.0
