"""The workers of a study: who they are, when they were last heard of, and which are dead.

All times are the database's clock, in seconds since 1970 (UTC); no worker's own clock counts.
"""

import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, insert, select, update

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.tables import claims, database_now, workers

from .claims import fail_trial, free
from .processes import is_gone, process_name

BEATS_IN_GRACE = 6
"""How often a worker is heard of within the time after which it is taken for dead."""


@dataclass(frozen=True)
class Claim:
    """What a worker is at, and for how many seconds."""

    what: str
    trial_id: int | None
    seconds: float


@dataclass(frozen=True)
class WorkerRecord:
    """One worker as the database knows it."""

    id: str
    host: str
    pid: int
    process: str
    device: str
    doing: str
    started: float
    beat: float
    silent: float
    """Seconds since it was last heard of."""
    end: str | None
    """How it ended; None while it is at work, as far as anybody knows."""

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"


class Workers:
    """The workers of one study."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._database, self._study_id = database, study_id

    def register(self, device: str) -> str:
        """Enter this process; gives its id."""
        worker_id = uuid.uuid4().hex
        with writing(self._database.engine) as session:
            session.execute(
                insert(workers).values(
                    worker_id=worker_id,
                    study_id=self._study_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    process=process_name(),
                    device=device,
                    doing="starting",
                    started=database_now(),
                    beat=database_now(),
                )
            )
        return worker_id

    def beat(self, worker_id: str, doing: str) -> None:
        """Say that a worker lives; one that was taken for dead is back."""
        with writing(self._database.engine) as session:
            session.execute(
                update(workers)
                .where(workers.c.worker_id == worker_id)
                .values(beat=database_now(), doing=doing, ended=None, end=None)
            )

    def end(self, worker_id: str, how: str) -> list[str]:
        """Sign a worker off; what it had not finished is free, and given back."""
        with writing(self._database.engine) as session:
            session.execute(
                update(workers)
                .where(workers.c.worker_id == worker_id)
                .values(beat=database_now(), ended=database_now(), end=how)
            )
            return free(session, worker_id, how)

    def listed(self, ended: bool = True) -> tuple[list[WorkerRecord], float]:
        """Workers in the order of starting, those that have ended too or not; and the time now."""
        query = (
            select(workers, database_now().label("now"))
            .where(workers.c.study_id == self._study_id)
            .order_by(workers.c.started)
        )
        if not ended:
            query = query.where(workers.c.end.is_(None))
        with self._database.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        found = [
            WorkerRecord(
                row["worker_id"],
                row["host"],
                row["pid"],
                row["process"],
                row["device"],
                row["doing"],
                row["started"],
                row["beat"],
                row["now"] - row["beat"],
                row["end"],
            )
            for row in rows
        ]
        return found, float(rows[0]["now"]) if rows else 0.0

    def at_work(self) -> dict[str, list[Claim]]:
        """What each worker holds and has not finished, by its id."""
        running = models.TrialModel.state == TrialState.RUNNING
        query = (
            select(claims, (database_now() - claims.c.since).label("seconds"))
            .outerjoin(models.TrialModel, models.TrialModel.trial_id == claims.c.trial_id)
            .where(claims.c.study_id == self._study_id)
            .where(claims.c.trial_id.is_(None) | running)
        )
        with self._database.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        held: dict[str, list[Claim]] = {}
        for row in rows:
            claim = Claim(row["what"], row["trial_id"], max(0.0, row["seconds"]))
            held.setdefault(row["worker_id"], []).append(claim)
        return held

    def pace(self, window: float) -> float | None:
        """Trials begun an hour, over the last `window` seconds or since the first one; None
        before there is one."""
        now = database_now()
        begun = claims.c.trial_id.is_not(None) & (claims.c.study_id == self._study_id)
        recent = claims.c.since > now - window
        with self._database.engine.connect() as connection:
            first = connection.execute(select(func.min(claims.c.since)).where(begun)).scalar()
            count, time = connection.execute(
                select(func.count(), now).select_from(claims).where(begun, recent)
            ).one()
        if first is None:
            return None
        return 3600.0 * int(count) / max(1.0, min(window, float(time) - float(first)))

    def fail_unclaimed(self, reason: str) -> list[int]:
        """Fail running trials that no worker at work has claimed, as they would run for ever;
        gives their numbers. For when none of them can be another program's."""
        at_work = select(workers.c.worker_id).where(workers.c.end.is_(None))
        held = select(claims.c.trial_id).where(
            claims.c.trial_id.is_not(None), claims.c.worker_id.in_(at_work)
        )
        left = select(models.TrialModel.trial_id, models.TrialModel.number).where(
            models.TrialModel.study_id == self._study_id,
            models.TrialModel.state == TrialState.RUNNING,
            models.TrialModel.trial_id.not_in(held),
        )
        with writing(self._database.engine) as session:
            rows = session.execute(left).all()
            return [number for trial, number in rows if fail_trial(session, trial, reason)]

    def bury(self, dead: WorkerRecord) -> list[str] | None:
        """Free what a dead worker had not finished, and give what that was.

        None where it was heard of meanwhile, or another has buried it.
        """
        reason = f"worker {dead.name} died"
        with writing(self._database.engine) as session:
            still = (workers.c.worker_id == dead.id) & (workers.c.beat == dead.beat)
            buried = session.execute(
                update(workers)
                .where(still, workers.c.end.is_(None))
                .values(ended=database_now(), end="died")
                .returning(workers.c.worker_id)
            )
            if buried.first() is None:
                return None
            freed = free(session, dead.id, reason)
            if freed:
                during = f"died during {', '.join(freed)}"[:255]
                session.execute(
                    update(workers).where(workers.c.worker_id == dead.id).values(end=during)
                )
        return freed


class Watch:
    """Tells dead workers from silent ones.

    A process of this machine is dead when it is gone. Another's is dead after `grace` seconds of
    silence, of which this watch has seen a good part without a break: after an outage of the
    database everybody has been silent, and gets the time to be heard again.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._seen: dict[str, tuple[float, float]] = {}
        """Worker to its last beat, and since when that is all that was seen of it."""
        self._looked = 0.0

    def dead(self, listed: Sequence[WorkerRecord], now: float) -> list[WorkerRecord]:
        """Those of the workers that are dead, at the database's time `now`."""
        step = self.grace / BEATS_IN_GRACE
        if not self._looked <= now <= self._looked + 2 * step:
            self._seen.clear()
        self._looked = now
        return [record for record in listed if record.end is None and self._is_dead(record, now)]

    def _is_dead(self, record: WorkerRecord, now: float) -> bool:
        if is_gone(record.process):
            return True
        beat, since = self._seen.get(record.id, (None, now))
        if beat != record.beat:
            since = now
        self._seen[record.id] = (record.beat, since)
        return record.silent > self.grace and now - since > self.grace / 2
