"""The private names of Optuna that this project uses. No other module refers to them.

Optuna may change them in any release. Versions tested: 5.0, which pyproject.toml pins;
tests/storage/test_optuna_internals.py states what is relied on. To allow another minor version,
run that test with it first.
"""

import copy
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    StudySystemAttributeModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial
from sqlalchemy import insert
from sqlalchemy.orm import Session

from .decoding import decoding

__all__ = [
    "BulkInsertStorage",
    "StudyModel",
    "StudySystemAttributeModel",
    "TrialModel",
    "TrialParamModel",
    "TrialUserAttributeModel",
    "TrialValueModel",
    "frozen_trial_id",
    "has_first_trial",
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


class BulkInsertStorage(RDBStorage):
    """Optuna's storage, except that a new trial's parameters are inserted by one statement.

    Optuna runs two queries for each parameter, 96 for a trial of 48. They check that the search
    space has not changed, which the study's fingerprint ensures already.
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

    def _build_frozen_trial_from_trial_model(self, trial: TrialModel) -> FrozenTrial:
        with decoding(f"an attribute of the trial with id {trial.trial_id}"):
            return super()._build_frozen_trial_from_trial_model(trial)

    @staticmethod
    def _fill_storage_url_template(template: str) -> str:
        return template  # a brace in a password or a path is not a placeholder
