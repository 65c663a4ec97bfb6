"""Who does what: each piece of work of a study is claimed by one worker, in the database.

A claim is a row under a unique key: it is made in the transaction that creates the trial and it
stays when the trial is complete, so that no place is evaluated twice. All of it bears being done
twice, since a lost connection does not tell whether the server had done it.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from optuna.distributions import FloatDistribution
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.tables import claims, database_now

from .errors import STUDY_DELETED, StorageError
from .scores import SEARCH, TaskAnswers, insert_answers
from .trials import FAILURE, RESULT, TASKS

T = TypeVar("T")


class ClaimTaken(Exception):
    """Another worker does this, or has done it."""


class TrialLost(Exception):
    """A trial was given up by others while it ran: its worker was taken for dead."""


class Claims:
    """The claims of one worker on one study, and the trials they stand for."""

    def __init__(self, database: Database, study_id: int, worker_id: str) -> None:
        self._database, self._study_id, self._worker_id = database, study_id, worker_id

    def start(
        self,
        what: str,
        params: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        attributes: Mapping[str, Any],
    ) -> int:
        """Claim a piece of work and create its running trial, in one transaction; gives its id.

        Raises ClaimTaken, and StorageError where the study is gone.
        """
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={name: FloatDistribution(*bounds[name]) for name in params},
            user_attrs=dict(attributes),
        )

        def work() -> int:
            with writing(self._database.engine) as session:
                models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
                held = self._held(session, what)
                if held is not None:
                    return held
                trial_id = self._database.insert_trial(session, self._study_id, template)
                session.execute(self._claim(what, trial_id))
                return trial_id

        return self._attempt(work, what)

    def take(self, what: str) -> None:
        """Claim work that makes no trial. Raises ClaimTaken, and StorageError where the study is
        gone."""

        def work() -> None:
            with writing(self._database.engine) as session:
                models.StudyModel.find_or_raise_by_id(self._study_id, session)
                query = select(claims.c.worker_id).where(self._is(what))
                holder = session.execute(query).scalar()
                if holder is None:
                    session.execute(self._claim(what, None))
                elif holder != self._worker_id:
                    raise ClaimTaken(what)

        self._attempt(work, what)

    def release(self, what: str) -> None:
        """Give back what `take` took."""

        def work() -> None:
            with writing(self._database.engine) as session:
                mine = claims.c.worker_id == self._worker_id
                session.execute(delete(claims).where(self._is(what), mine))

        self._database.patience(work)

    def finish(
        self,
        trial_id: int,
        value: float,
        tasks: Mapping[str, float],
        result: Mapping[str, Any],
        answers: Mapping[str, TaskAnswers],
    ) -> None:
        """Store all that a trial came to, in one transaction. Raises TrialLost."""

        def work() -> None:
            with writing(self._database.engine) as session:
                trial = _running(session, trial_id)
                if trial is None:
                    return
                insert_answers(session, trial_id, SEARCH, answers)
                _set_attribute(session, trial_id, TASKS, dict(tasks))
                _set_attribute(session, trial_id, RESULT, dict(result))
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                session.add(
                    models.TrialValueModel(
                        trial_id=trial_id, objective=0, value=stored, value_type=kind
                    )
                )
                _end(trial, TrialState.COMPLETE)

        self._database.patience(work)

    def fail(self, trial_id: int, reason: str) -> None:
        """Mark a running trial failed; what it stood for is free again."""

        def work() -> None:
            with writing(self._database.engine) as session:
                fail_trial(session, trial_id, reason)

        self._database.patience(work)

    def _attempt(self, work: Callable[[], T], what: str) -> T:
        try:
            return self._database.patience(work)
        except IntegrityError:
            raise ClaimTaken(what) from None
        except KeyError:
            raise StorageError(STUDY_DELETED) from None

    def _held(self, session: Session, what: str) -> int | None:
        """The trial of a claim of ours whose making was not confirmed. Raises ClaimTaken."""
        query = select(claims.c.worker_id, claims.c.trial_id).where(self._is(what))
        row = session.execute(query).first()
        if row is None:
            return None
        trial = session.get(models.TrialModel, row.trial_id)
        if trial is None or trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
            session.execute(delete(claims).where(self._is(what)))  # failed by a hand not ours
            return None
        if row.worker_id != self._worker_id or trial.state != TrialState.RUNNING:
            raise ClaimTaken(what)
        return int(row.trial_id)

    def _claim(self, what: str, trial_id: int | None) -> Any:
        return insert(claims).values(
            study_id=self._study_id,
            what=what,
            worker_id=self._worker_id,
            trial_id=trial_id,
            since=database_now(),
        )

    def _is(self, what: str) -> Any:
        return (claims.c.study_id == self._study_id) & (claims.c.what == what)


def free(session: Session, worker_id: str, reason: str) -> list[str]:
    """Free what a dead worker had not finished: its running trial fails. Gives what it was."""
    rows = session.execute(select(claims).where(claims.c.worker_id == worker_id)).mappings().all()
    freed = []
    for row in rows:
        if row["trial_id"] is None:
            same = (claims.c.study_id == row["study_id"]) & (claims.c.what == row["what"])
            session.execute(delete(claims).where(same))
            freed.append(row["what"])
        elif fail_trial(session, row["trial_id"], reason):
            freed.append(row["what"])
    return freed


def fail_trial(session: Session, trial_id: int, reason: str) -> bool:
    """Fail a trial and free its claim, if it is running; tells whether it was."""
    trial = session.get(models.TrialModel, trial_id, with_for_update=True)
    if trial is None or trial.state != TrialState.RUNNING:
        return False
    _set_attribute(session, trial_id, FAILURE, reason)
    _end(trial, TrialState.FAIL)
    session.execute(delete(claims).where(claims.c.trial_id == trial_id))
    return True


def _running(session: Session, trial_id: int) -> models.TrialModel | None:
    """A running trial, locked; None where it is complete already. Raises TrialLost."""
    trial = session.get(models.TrialModel, trial_id, with_for_update=True)
    if trial is None:
        raise StorageError(STUDY_DELETED)
    if trial.state == TrialState.COMPLETE:
        return None
    if trial.state != TrialState.RUNNING:
        raise TrialLost(f"trial {trial.number}")
    return trial


def _end(trial: models.TrialModel, state: TrialState) -> None:
    trial.state = state
    trial.datetime_complete = datetime.now()


def _set_attribute(session: Session, trial_id: int, key: str, value: Any) -> None:
    """On a trial that is locked, so nobody else writes the same."""
    model = models.TrialUserAttributeModel
    same = (model.trial_id == trial_id) & (model.key == key)
    text = json.dumps(value)
    changed = update(model).where(same).values(value_json=text).returning(model.key)
    if session.execute(changed).first() is None:
        session.execute(insert(model).values(trial_id=trial_id, key=key, value_json=text))
