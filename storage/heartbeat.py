"""A thread that says that this worker lives, and buries those that do not."""

import logging
import threading
from types import TracebackType

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from storage.database.retry import cause

from .workers import BEATS_IN_GRACE, Watch, Workers

log = logging.getLogger(__name__)


class Heartbeat:
    """While entered, beats several times in each grace period. A database that is away is tried
    again at the next beat: the main thread is the one that waits or gives up."""

    def __init__(self, workers: Workers, worker_id: str, grace: float) -> None:
        self.doing = "starting"
        self._workers, self._worker_id = workers, worker_id
        self._watch, self._lock = Watch(grace), threading.Lock()
        self._step = grace / BEATS_IN_GRACE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=self._step)
        how = "done" if error is None else f"{type(error).__name__}: {error}"[:255]
        try:
            self._workers.end(self._worker_id, how)
        except (SQLAlchemyError, StorageInternalError) as failure:
            log.info("could not sign off: %s", cause(failure))

    def bury_dead(self) -> None:
        """Free what dead workers held."""
        with self._lock:
            listed, now = self._workers.listed(ended=False)
            dead = self._watch.dead(listed, now)
        for record in dead:
            freed = self._workers.bury(record)
            if freed is not None:
                what = f" during {', '.join(freed)}: it is free again" if freed else ""
                log.warning("worker %s died%s", record.name, what)

    def _run(self) -> None:
        while not self._ended.wait(self._step):
            try:
                self._workers.beat(self._worker_id, self.doing)
                self.bury_dead()
            except (SQLAlchemyError, StorageInternalError) as error:
                log.debug("no heartbeat: %s", cause(error))
