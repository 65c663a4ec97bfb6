"""The private names of Optuna that this project uses. No other module refers to them.

Optuna may change them in any release. Versions tested: 5.0, which pyproject.toml pins;
tests/storage/test_optuna_internals.py states what is relied on. To allow another minor version,
run that test with it first.
"""

import copy
import functools
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    StudySystemAttributeModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, insert, select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from .decoding import UNDECODABLE, decoding, undecodable
from .url import printable

__all__ = [
    "BulkStorage",
    "StudyModel",
    "StudySystemAttributeModel",
    "TrialModel",
    "TrialParamModel",
    "TrialUserAttributeModel",
    "TrialValueModel",
    "frozen_trial_id",
    "has_first_trial",
    "stored_parameters",
    "study_id",
    "with_storage",
]


def study_id(study: optuna.Study) -> int:
    """Return the study's primary key in the database."""
    return study._study_id


def frozen_trial_id(trial: FrozenTrial) -> int:
    """Return the trial's primary key in the database."""
    return trial._trial_id


def has_first_trial(study: optuna.Study) -> bool:
    """Return whether the study has a trial with number 0, without reading any trial."""
    try:
        study._storage.get_trial_id_from_study_id_trial_number(study._study_id, 0)
    except KeyError:
        return False
    return True


def with_storage(study: optuna.Study, storage: Any) -> Any:
    """Return a shallow copy of the study that reads and writes through another storage."""
    duplicate: Any = copy.copy(study)
    duplicate._storage = storage
    return duplicate


class StoredParameter(NamedTuple):
    """A parameter of a trial."""

    trial_id: int
    name: str
    value: float
    """The value as it is stored: of a categorical parameter, the index of its choice."""
    external: Any
    """The value as Optuna's trials have it."""
    distribution: BaseDistribution


def stored_parameters(
    connection: Connection | Session, wanted: ColumnElement[bool]
) -> Iterator[StoredParameter]:
    """Yield the parameters of trials, in the order in which they were stored.

    `wanted` is a condition on TrialModel. Raises StorageError for a value that cannot be decoded.
    """
    param = TrialParamModel
    query = (
        select(param.trial_id, param.param_name, param.param_value, param.distribution_json)
        .join(TrialModel, TrialModel.trial_id == param.trial_id)
        .where(wanted)
        .order_by(param.param_id)
    )
    for id_, name, value, text in connection.execute(query):
        try:
            distribution = _distribution(text)
            external = distribution.to_external_repr(value)
        except UNDECODABLE as error:
            what = f"the parameter {printable(name)} of the trial with id {id_}"
            raise undecodable(what, error) from None
        yield StoredParameter(id_, name, value, external, distribution)


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """Parse a distribution. Cached, because each of a few is stored with every trial."""
    return json_to_distribution(text)


class BulkStorage(RDBStorage):
    """Optuna's storage, except that parameters are written and read in bulk.

    For each parameter of a new trial Optuna runs two queries, 96 for a trial of 48. They check that
    the search space has not changed, which the study's fingerprint ensures already. When it reads
    trials it creates an object for each parameter and parses its distribution twice, which takes
    seconds for a thousand trials.
    """

    def insert_trial(self, session: Session, study_id: int, template: FrozenTrial) -> int:
        """Insert a trial within the caller's transaction and return its id.

        Raises KeyError if the study does not exist.
        """
        StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        trial = self._get_prepared_new_trial(study_id, template, session)
        session.flush()
        return int(trial.trial_id)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> TrialModel:
        if template_trial is None or not template_trial.params:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        without_params = copy.copy(template_trial)
        without_params.params, without_params.distributions = {}, {}
        trial = super()._get_prepared_new_trial(study_id, without_params, session)
        rows = [
            {
                "trial_id": trial.trial_id,
                "param_name": name,
                "param_value": template_trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(template_trial.distributions[name]),
            }
            for name, value in template_trial.params.items()
        ]
        session.execute(insert(TrialParamModel), rows)
        return trial

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the trials that Optuna would return. Raises KeyError if there is no such study.

        Trials are read before their parameters: all data of a trial with a finished state are
        visible by then.
        """
        trial = TrialModel
        wanted = (trial.study_id == study_id) & (
            (trial.trial_id > trial_id_greater_than)
            | trial.trial_id.in_(sorted(included_trial_ids))
        )
        if states is not None:
            assert isinstance(states, Iterable)
            wanted &= trial.state.in_(states)
        relations = (
            *(trial.values, trial.user_attributes, trial.system_attributes),
            trial.intermediate_values,
        )
        with _create_scoped_session(self.scoped_session) as session:
            StudyModel.find_or_raise_by_id(study_id, session)
            query = session.query(trial).options(*map(selectinload, relations)).filter(wanted)
            models = query.order_by(trial.trial_id).all()
            params: dict[int, dict[str, Any]] = {}
            distributions: dict[int, dict[str, BaseDistribution]] = {}
            for p in stored_parameters(session, wanted):
                params.setdefault(p.trial_id, {})[p.name] = p.external
                distributions.setdefault(p.trial_id, {})[p.name] = p.distribution
            trials = []
            for model in models:
                set_committed_value(model, "params", [])  # so that Optuna does not read them again
                frozen = self._build_frozen_trial_from_trial_model(model)
                frozen.params = params.get(frozen_trial_id(frozen), {})
                frozen.distributions = distributions.get(frozen_trial_id(frozen), {})
                trials.append(frozen)
            return trials

    def _build_frozen_trial_from_trial_model(self, trial: TrialModel) -> FrozenTrial:
        with decoding(f"an attribute of the trial with id {trial.trial_id}"):
            return super()._build_frozen_trial_from_trial_model(trial)

    @staticmethod
    def _fill_storage_url_template(template: str) -> str:
        return template  # a brace in a password or a path is not a placeholder
