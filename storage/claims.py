"""Claim each piece of a study's work for one worker, through the database.

A claim is a row with a unique key. The claim on a trial is inserted in the transaction that creates
the trial and is kept when the trial completes, so that a completed proposal is not evaluated again.
All operations are idempotent, because after a lost connection it is unknown whether the transaction
was committed.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.optuna_internals import (
    StudyModel,
    TrialModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from storage.database.tables import claims, database_now

from .errors import STUDY_DELETED, StorageError
from .gradients import StoredGradient, insert_gradient
from .scores import SEARCH, StoredScores, insert_scores
from .trials import FAILURE, RESULT, TASKS

T = TypeVar("T")


class ClaimTaken(Exception):
    """The piece of work is claimed by another worker, or is already complete."""


class TrialLost(Exception):
    """Another worker marked this trial as failed, because it considered this worker dead."""


class Claims:
    """The claims of one worker on one study, and the trials that belong to them."""

    def __init__(self, database: Database, study_id: int, worker_id: str) -> None:
        self._database, self._study_id, self._worker_id = database, study_id, worker_id

    def start(
        self,
        key: str,
        params: Mapping[str, float],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> int:
        """Claim work and create its running trial in one transaction; return the trial's id.

        Raises ClaimTaken, and StorageError if the study was deleted.
        """
        template = create_trial(
            state=TrialState.RUNNING,
            params={name: distributions[name].to_external_repr(v) for name, v in params.items()},
            distributions={name: distributions[name] for name in params},
            user_attrs=dict(attributes),
        )

        def work() -> int:
            with writing(self._database.engine) as session:
                StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
                trial_id = self._claimed_trial(session, key)
                if trial_id is None:
                    trial_id = self._database.insert_trial(session, self._study_id, template)
                    session.execute(self._insertion(key, trial_id))
                return trial_id

        return self._attempt(work, key)

    def acquire(self, key: str) -> None:
        """Claim work that needs no trial.

        Raises ClaimTaken, and StorageError if the study was deleted.
        """

        def work() -> None:
            with writing(self._database.engine) as session:
                StudyModel.find_or_raise_by_id(self._study_id, session)
                query = select(claims.c.worker_id).where(self._has_key(key))
                holder = session.execute(query).scalar()
                if holder is None:
                    session.execute(self._insertion(key, None))
                elif holder != self._worker_id:
                    raise ClaimTaken(key)

        self._attempt(work, key)

    def release(self, key: str) -> None:
        """Delete a claim of this worker that `acquire` has made."""

        def work() -> None:
            with writing(self._database.engine) as session:
                own = claims.c.worker_id == self._worker_id
                session.execute(delete(claims).where(self._has_key(key), own))

        self._database.retry(work)

    def finish(
        self,
        trial_id: int,
        value: float,
        tasks: Mapping[str, float],
        result: Mapping[str, Any],
        scores: Mapping[str, StoredScores],
        gradient: StoredGradient | None = None,
    ) -> None:
        """Complete a trial and store its results, in one transaction.

        `tasks` are the mean scores by task, `result` is stored as the attribute RESULT, `scores`
        are the scores of each question by task, and `gradient` is that of a step of an ascent. If
        the trial is already complete, nothing is written. Raises TrialLost, and StorageError if the
        study was deleted.
        """

        def work() -> None:
            with writing(self._database.engine) as session:
                trial = _running(session, trial_id)
                if trial is None:
                    return
                insert_scores(session, trial_id, SEARCH, scores)
                if gradient is not None:
                    insert_gradient(session, self._study_id, trial_id, gradient)
                _set_attribute(session, trial_id, TASKS, dict(tasks))
                _set_attribute(session, trial_id, RESULT, dict(result))
                stored, type_ = TrialValueModel.value_to_stored_repr(value)
                session.add(
                    TrialValueModel(trial_id=trial_id, objective=0, value=stored, value_type=type_)
                )
                _end(trial, TrialState.COMPLETE)

        self._database.retry(work)

    def fail(self, trial_id: int, reason: str) -> None:
        """Mark a running trial as failed and release its claim."""

        def work() -> None:
            with writing(self._database.engine) as session:
                fail_trial(session, trial_id, reason)

        self._database.retry(work)

    def _attempt(self, work: Callable[[], T], key: str) -> T:
        try:
            return self._database.retry(work)
        except IntegrityError:
            raise ClaimTaken(key) from None
        except KeyError:
            raise StorageError(STUDY_DELETED) from None

    def _claimed_trial(self, session: Session, key: str) -> int | None:
        """Return the id of the running trial that an earlier, unconfirmed attempt has created.

        Return None if there is no claim. If the claim's trial failed or was deleted, delete the
        claim and return None. Raises ClaimTaken if another worker holds the claim, or if the trial
        is complete.
        """
        query = select(claims.c.worker_id, claims.c.trial_id).where(self._has_key(key))
        row = session.execute(query).first()
        if row is None:
            return None
        trial = session.get(TrialModel, row.trial_id)
        if trial is None or trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
            # Another program deleted it or marked it as failed; fail_trial also deletes the claim.
            session.execute(delete(claims).where(self._has_key(key)))
            return None
        if row.worker_id != self._worker_id or trial.state != TrialState.RUNNING:
            raise ClaimTaken(key)
        return int(row.trial_id)

    def _insertion(self, key: str, trial_id: int | None) -> Any:
        return insert(claims).values(
            study_id=self._study_id,
            what=key,
            worker_id=self._worker_id,
            trial_id=trial_id,
            since=database_now(),
        )

    def _has_key(self, key: str) -> Any:
        return (claims.c.study_id == self._study_id) & (claims.c.what == key)


def release_unfinished(session: Session, worker_id: str, reason: str) -> list[str]:
    """Release a worker's unfinished claims and mark its running trials as failed.

    Return the keys of the released claims.
    """
    rows = session.execute(select(claims).where(claims.c.worker_id == worker_id)).mappings().all()
    released = []
    for row in rows:
        if row["trial_id"] is None:
            same = (claims.c.study_id == row["study_id"]) & (claims.c.what == row["what"])
            session.execute(delete(claims).where(same))
            released.append(row["what"])
        elif fail_trial(session, row["trial_id"], reason):
            released.append(row["what"])
    return released


def fail_trial(session: Session, trial_id: int, reason: str) -> bool:
    """Mark a running trial as failed and delete its claim; return whether it was running."""
    trial = session.get(TrialModel, trial_id, with_for_update=True)
    if trial is None or trial.state != TrialState.RUNNING:
        return False
    _set_attribute(session, trial_id, FAILURE, reason)
    _end(trial, TrialState.FAIL)
    session.execute(delete(claims).where(claims.c.trial_id == trial_id))
    return True


def _running(session: Session, trial_id: int) -> TrialModel | None:
    """Lock and return a running trial; return None if it is complete already.

    Raises TrialLost if it has failed, and StorageError if it was deleted with its study.
    """
    trial = session.get(TrialModel, trial_id, with_for_update=True)
    if trial is None:
        raise StorageError(STUDY_DELETED)
    if trial.state == TrialState.COMPLETE:
        return None
    if trial.state != TrialState.RUNNING:
        raise TrialLost(f"trial {trial.number}")
    return trial


def _end(trial: TrialModel, state: TrialState) -> None:
    trial.state = state
    trial.datetime_complete = datetime.now()


def _set_attribute(session: Session, trial_id: int, key: str, value: Any) -> None:
    """Insert or replace an attribute. The caller has locked the trial."""
    model = TrialUserAttributeModel
    same = (model.trial_id == trial_id) & (model.key == key)
    text = json.dumps(value)
    updated = update(model).where(same).values(value_json=text).returning(model.key)
    if session.execute(updated).first() is None:
        session.execute(insert(model).values(trial_id=trial_id, key=key, value_json=text))
