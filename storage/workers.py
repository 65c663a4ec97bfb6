"""The workers of a study, their heartbeats and their claims.

All times are read from the database's clock, in seconds since 1970 (UTC). Workers' own clocks are
never used.
"""

import os
import socket
import uuid
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import func, insert, select, update

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.optuna_internals import TrialModel
from storage.database.tables import claims, database_now, workers

from .claims import fail_trial, release_unfinished
from .processes import process_name

HEARTBEATS_PER_TIMEOUT = 6
"""The number of heartbeats that a worker records within the timeout."""


@dataclass(frozen=True)
class Claim:
    """An unfinished piece of work that a worker has claimed."""

    key: str
    trial_id: int | None
    seconds: float
    """Seconds since it was claimed."""


@dataclass(frozen=True)
class WorkerRecord:
    """One worker as it was last read."""

    id: str
    host: str
    pid: int
    process: str
    device: str
    doing: str
    started: float
    beat: float
    silent: float
    """Seconds since its last heartbeat."""
    end: str | None
    """How it ended; None if no end is recorded."""

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"

    def is_overdue(self, timeout: float) -> bool:
        """Return whether its last heartbeat is more than `timeout` seconds old."""
        return self.silent > timeout


class Workers:
    """The workers of one study."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._database, self._study_id = database, study_id

    def register(self, device: str) -> str:
        """Insert a row for this process and return its worker id."""
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
        """Record a heartbeat. A worker that was considered dead counts as running again."""
        with writing(self._database.engine) as session:
            session.execute(
                update(workers)
                .where(workers.c.worker_id == worker_id)
                .values(beat=database_now(), doing=doing, ended=None, end=None)
            )

    def end(self, worker_id: str, reason: str) -> list[str]:
        """Record the end of a worker, release its unfinished claims and return their keys."""
        with writing(self._database.engine) as session:
            session.execute(
                update(workers)
                .where(workers.c.worker_id == worker_id)
                .values(beat=database_now(), ended=database_now(), end=reason)
            )
            return release_unfinished(session, worker_id, reason)

    def count_alive(self, timeout: float) -> int:
        """Return the number of workers that have not ended and sent a heartbeat within `timeout`
        seconds."""
        records, _ = self.read_all(include_ended=False)
        return sum(not record.is_overdue(timeout) for record in records)

    def read_all(self, include_ended: bool = True) -> tuple[list[WorkerRecord], float]:
        """Return the workers in the order of their start, and the database's current time.

        The time is 0 if there are no workers.
        """
        query = (
            select(workers, database_now().label("now"))
            .where(workers.c.study_id == self._study_id)
            .order_by(workers.c.started)
        )
        if not include_ended:
            query = query.where(workers.c.end.is_(None))
        with self._database.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        records = [
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
        return records, float(rows[0]["now"]) if rows else 0.0

    def unfinished_claims(self) -> dict[str, list[Claim]]:
        """Return the unfinished claims by worker id."""
        running = TrialModel.state == TrialState.RUNNING
        query = (
            select(claims, (database_now() - claims.c.since).label("seconds"))
            .outerjoin(TrialModel, TrialModel.trial_id == claims.c.trial_id)
            .where(claims.c.study_id == self._study_id)
            .where(claims.c.trial_id.is_(None) | running)
        )
        with self._database.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        by_worker: dict[str, list[Claim]] = {}
        for row in rows:
            claim = Claim(row["what"], row["trial_id"], max(0.0, row["seconds"]))
            by_worker.setdefault(row["worker_id"], []).append(claim)
        return by_worker

    def trials_per_hour(self, window: float) -> float | None:
        """Return how many trials are started per hour; None before the first one.

        The rate is measured over the last `window` seconds, or since the first trial if that
        started later.
        """
        now = database_now()
        of_trials = claims.c.trial_id.is_not(None) & (claims.c.study_id == self._study_id)
        recent = claims.c.since > now - window
        with self._database.engine.connect() as connection:
            first = connection.execute(select(func.min(claims.c.since)).where(of_trials)).scalar()
            count, time = connection.execute(
                select(func.count(), now).select_from(claims).where(of_trials, recent)
            ).one()
        if first is None:
            return None
        return 3600.0 * int(count) / max(1.0, min(window, float(time) - float(first)))

    def fail_unclaimed(self, reason: str) -> list[int]:
        """Fail running trials that no running worker has claimed; return their numbers.

        They would stay running for ever. Only for use while no other program can be running them.
        """
        running = select(workers.c.worker_id).where(workers.c.end.is_(None))
        claimed = select(claims.c.trial_id).where(
            claims.c.trial_id.is_not(None), claims.c.worker_id.in_(running)
        )
        unclaimed = select(TrialModel.trial_id, TrialModel.number).where(
            TrialModel.study_id == self._study_id,
            TrialModel.state == TrialState.RUNNING,
            TrialModel.trial_id.not_in(claimed),
        )
        with writing(self._database.engine) as session:
            rows = session.execute(unclaimed).all()
            return [number for trial, number in rows if fail_trial(session, trial, reason)]

    def reap(self, dead: WorkerRecord) -> list[str] | None:
        """Record that a worker died, release its unfinished claims and return their keys.

        Returns None if it has recorded a heartbeat since, or if another worker has reaped it.
        """
        reason = f"worker {dead.name} died"
        with writing(self._database.engine) as session:
            unchanged = (workers.c.worker_id == dead.id) & (workers.c.beat == dead.beat)
            reaped = session.execute(
                update(workers)
                .where(unchanged, workers.c.end.is_(None))
                .values(ended=database_now(), end="died")
                .returning(workers.c.worker_id)
            )
            if reaped.first() is None:
                return None
            released = release_unfinished(session, dead.id, reason)
            if released:
                during = f"died during {', '.join(released)}"[:255]
                session.execute(
                    update(workers).where(workers.c.worker_id == dead.id).values(end=during)
                )
        return released
