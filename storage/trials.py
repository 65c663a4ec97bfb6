"""What is saved with a trial, read back."""

import functools
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from storage.database.database import Database, readable
from storage.database.url import printable

from .errors import STUDY_DELETED, StorageError

BASELINE, KIND, TASKS, RESULT, FAILURE = "baseline", "kind", "tasks", "result", "failure"
GENERATION, SLOT = "generation", "slot"
"""The attributes of trials. A place in the search is a generation and a slot. What a trial came
to is written in one transaction with its value."""
INTERRUPTED = "Interrupted"
"""How the reason of a failure begins if it was a signal: by the name of its exception."""
_REMEMBERED = 20
"""Trials from which it is known how long one takes."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the rest of the project sees it."""

    id: int
    number: int
    state: TrialState
    params: Mapping[str, float]
    value: float | None
    attributes: Mapping[str, Any]

    @property
    def baseline(self) -> str | None:
        """The baseline's name; None for a trial of the search."""
        return self.attributes.get(BASELINE)

    @property
    def kind(self) -> str:
        """base, parent, uniform, or search."""
        return str(self.attributes.get(KIND, "search"))

    @property
    def tasks(self) -> dict[str, float]:
        """Each task's mean score."""
        return dict(self.attributes.get(TASKS, {}))

    @property
    def objective(self) -> float | None:
        """What the search ranks the trial by; its value, unless the search has another measure."""
        if self.value is None:
            return None
        return float(self.attributes.get(RESULT, {}).get("objective", self.value))

    @property
    def sampled(self) -> bool:
        """Whether it was asked some of the search questions and the rest were reckoned."""
        result = self.attributes.get(RESULT, {})
        return bool(result.get("asked", 0) < result.get("questions", 0))

    @property
    def error(self) -> float | None:
        """The standard error of the value over questions; None where it cannot be told."""
        error = self.attributes.get(RESULT, {}).get("error")
        return None if error is None else float(error)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the trial's time went."""
        return dict(self.attributes.get(RESULT, {}).get("seconds", {}))

    @property
    def under_way(self) -> bool:
        """Running or complete: nobody else begins the same."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE)

    @property
    def complete(self) -> bool:
        return self.state == TrialState.COMPLETE

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended its run. Optuna's state for that is FAIL, but nothing failed."""
        reason = str(self.attributes.get(FAILURE, ""))
        return self.state == TrialState.FAIL and reason.startswith(f"{INTERRUPTED}:")

    @property
    def failed(self) -> bool:
        """Whether its evaluation failed, or its worker died."""
        return self.state == TrialState.FAIL and not self.interrupted


class Trials:
    """The trials of one study, read from the database as they come to be.

    What is finished never changes, so each read asks for what has begun or ended since the last.
    """

    def __init__(self, database: Database, study: optuna.Study) -> None:
        self.database, self.study = database, study
        self._known: dict[int, TrialRecord] = {}
        """By id, in the order of creation."""
        self._open: set[int] = set()
        """Ids of trials that were not finished when last read."""
        self._last = -1

    def frozen(self) -> list[FrozenTrial]:
        """Optuna's own records, not to be changed."""
        return self.database.patience(lambda: self.study.get_trials(deepcopy=False))

    def all(self) -> list[TrialRecord]:
        """Every trial, in the order of creation. Raises StorageError where the study is gone."""
        for record in self.database.patience(self._news):
            self._known[record.id] = record
            self._last = max(self._last, record.id)
            (self._open.discard if record.state.is_finished() else self._open.add)(record.id)
        return list(self._known.values())

    def _news(self) -> list[TrialRecord]:
        """New trials and those that were open, in the order of creation.

        A trial's state is read first: where it is finished, all that belongs to it is there. Ids
        grow in the order in which trials become visible, since making one locks the study.
        """
        trial = models.TrialModel
        wanted = (trial.study_id == self.study._study_id) & (
            (trial.trial_id > self._last) | trial.trial_id.in_(sorted(self._open))
        )
        with self.database.engine.connect() as connection:
            heads = connection.execute(
                select(trial.trial_id, trial.number, trial.state)
                .where(wanted)
                .order_by(trial.trial_id)
            ).all()
            if not heads:
                study = models.StudyModel.study_id
                mine = select(study).where(study == self.study._study_id)
                if connection.execute(mine).first() is None:
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

    def _params(self, connection: Connection, wanted: Any) -> dict[int, dict[str, Any]]:
        """By trial; in the order in which they were stored."""
        param = models.TrialParamModel
        query = (
            select(param.trial_id, param.param_name, param.param_value, param.distribution_json)
            .join(models.TrialModel, models.TrialModel.trial_id == param.trial_id)
            .where(wanted)
            .order_by(param.param_id)
        )
        found: dict[int, dict[str, Any]] = {}
        for id_, name, value, text in connection.execute(query):
            with readable(f"the parameter {printable(name)} of the trial with id {id_}"):
                found.setdefault(id_, {})[name] = _distribution(text).to_external_repr(value)
        return found

    def _values(self, connection: Connection, wanted: Any) -> dict[int, float]:
        model = models.TrialValueModel
        query = (
            select(model.trial_id, model.value, model.value_type)
            .join(models.TrialModel, models.TrialModel.trial_id == model.trial_id)
            .where(wanted)
        )
        return {
            id_: model.stored_repr_to_value(value, kind)
            for id_, value, kind in connection.execute(query)
        }

    def _attributes(self, connection: Connection, wanted: Any) -> dict[int, dict[str, Any]]:
        model = models.TrialUserAttributeModel
        query = (
            select(model.trial_id, model.key, model.value_json)
            .join(models.TrialModel, models.TrialModel.trial_id == model.trial_id)
            .where(wanted)
        )
        found: dict[int, dict[str, Any]] = {}
        for id_, key, text in connection.execute(query):
            with readable(f"the attribute {printable(key)} of the trial with id {id_}"):
                found.setdefault(id_, {})[key] = _checked(key, json.loads(text))
        return found


_KINDS: Mapping[str, type] = {
    **dict.fromkeys((BASELINE, KIND, FAILURE), str),
    **dict.fromkeys((TASKS, RESULT), dict),
    **dict.fromkeys((GENERATION, SLOT), int),
}
_NUMBERS = {"error", "objective", "asked", "questions"}
"""Those of a result; the error may be missing."""


def _checked(key: str, value: Any) -> Any:
    """Return the value of an attribute. Raises ValueError if it is not of the kind we store."""
    kind = _KINDS.get(key, object)
    numbers: list[Any] = []
    if isinstance(value, dict):
        numbers = [n for name, n in value.items() if key == TASKS or name in _NUMBERS]
    if not isinstance(value, kind) or not all(
        isinstance(n, int | float) or (n is None and key == RESULT) for n in numbers
    ):
        raise ValueError(f"{str(value)[:80]!r} is not what merge-study writes")
    return value


@functools.lru_cache
def _distribution(text: str) -> BaseDistribution:
    """A study has a few of them, each stored with every trial."""
    return json_to_distribution(text)


def record(trial: FrozenTrial) -> TrialRecord:
    return TrialRecord(
        trial._trial_id,
        trial.number,
        trial.state,
        trial.params,
        trial.value if trial.state == TrialState.COMPLETE else None,
        trial.user_attrs,
    )


def typical_seconds(records: Sequence[TrialRecord]) -> float:
    """The median time of the last trials; 0 before there is one."""
    complete = (r for r in reversed(records) if r.complete)
    last = [sum(r.seconds.values()) for r in itertools.islice(complete, _REMEMBERED)]
    return statistics.median(last) if last else 0.0
