"""Record this worker's heartbeat, and find and reap workers whose heartbeat has expired.

The timeout is `study.heartbeat_timeout`, whose default is in study/config/study.py.
"""

import logging
import threading
from collections.abc import Sequence
from types import TracebackType

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from storage.database.retry import driver_message

from .processes import has_ended
from .workers import HEARTBEATS_PER_TIMEOUT, WorkerRecord, Workers

log = logging.getLogger(__name__)


class Watch:
    """Distinguishes dead workers from those that are silent for another reason.

    A process of this machine is dead if it has ended. Any other is dead after `timeout` seconds
    without a heartbeat, if this watch has looked without a pause during half of that time. After
    an outage of the database all workers have been silent, and each gets time to be heard again.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout` is in seconds."""
        self.timeout = timeout
        self._last_beats: dict[str, tuple[float, float]] = {}
        """By worker id: the last heartbeat, and the time at which this watch first saw it."""
        self._looked = 0.0

    def find_dead(self, records: Sequence[WorkerRecord], now: float) -> list[WorkerRecord]:
        """Return the dead workers among `records`, at the database's time `now`."""
        interval = self.timeout / HEARTBEATS_PER_TIMEOUT
        if not self._looked <= now <= self._looked + 2 * interval:
            self._last_beats.clear()
        self._looked = now
        return [record for record in records if record.end is None and self._is_dead(record, now)]

    def _is_dead(self, record: WorkerRecord, now: float) -> bool:
        if has_ended(record.process):
            return True
        beat, since = self._last_beats.get(record.id, (None, now))
        if beat != record.beat:
            since = now
        self._last_beats[record.id] = (record.beat, since)
        return record.is_overdue(self.timeout) and now - since > self.timeout / 2


class Heartbeat:
    """A thread that records heartbeats while the context is entered.

    If the database is unavailable, it tries again at the next heartbeat. Only the main thread
    waits for the database or ends the run.
    """

    def __init__(self, workers: Workers, worker_id: str, timeout: float) -> None:
        """`timeout` is in seconds: a worker that is silent for longer is considered dead."""
        self.doing = "starting"
        """What the worker is doing now, for the status command."""
        self._workers, self._worker_id = workers, worker_id
        self._watch, self._lock = Watch(timeout), threading.Lock()
        self._interval = timeout / HEARTBEATS_PER_TIMEOUT
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=self._interval)
        reason = "done" if error is None else f"{type(error).__name__}: {error}"[:255]
        try:
            self._workers.end(self._worker_id, reason)
        except (SQLAlchemyError, StorageInternalError) as failure:
            log.info("could not record the end of this worker: %s", driver_message(failure))

    def reap_dead(self) -> None:
        """Find the dead workers and release their unfinished work."""
        with self._lock:
            records, now = self._workers.read_all(include_ended=False)
            dead = self._watch.find_dead(records, now)
        for record in dead:
            released = self._workers.reap(record)
            if released is not None:
                what = f" during {', '.join(released)}, which is released" if released else ""
                log.warning("worker %s died%s", record.name, what)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._workers.beat(self._worker_id, self.doing)
                self.reap_dead()
            except (SQLAlchemyError, StorageInternalError) as error:
                log.debug("could not record a heartbeat: %s", driver_message(error))
