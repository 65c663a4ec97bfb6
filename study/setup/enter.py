"""Create or join a study, and register this process as a worker."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

import optuna

from storage.database.database import Database, open_storage
from storage.database.retry import RetryPolicy
from storage.database.url import redacted, sqlite_path
from storage.errors import StorageError
from storage.heartbeat import Watch
from storage.scores import ScoreStore
from storage.studies import create_study, find_study, has_trials
from storage.trials import TrialRecord, Trials
from storage.workers import Workers
from study.cli.interrupts import Interrupts
from study.config.errors import ConfigError
from study.search.space import ranges
from study.search.state import SearchState
from study.search.warm_start import store_start

from .engine import EngineChoice
from .matching import check_fingerprint, has_same_questions
from .setup import Setup

log = logging.getLogger(__name__)


def open_database(setup: Setup, url: str, interrupts: Interrupts) -> Database:
    """Open the study's database, which is retried for `study.outage_limit` if it is unreachable.

    Raises StorageError.
    """
    earlier, path = setup.config.study.start_from, sqlite_path(url)
    if earlier is not None and path is not None and not path.exists():
        raise StorageError(f"study.start_from: {earlier}: there is no database {path}")
    retry_policy = RetryPolicy(setup.config.study.outage_limit, interrupts.pause)
    return open_storage(url, retry_policy=retry_policy)


def log_start(setup: Setup, url: str, records: Sequence[TrialRecord], population: int) -> None:
    """Log what the study searches and how many trials have finished."""
    config, finished = setup.config, len(SearchState.of(records).finished)
    verb = "resuming" if records else "starting"
    log.info("%s study %s in %s", verb, config.name, redacted(url))
    by_gradient = setup.rules.by_gradient
    log.info(
        "%d of %d %s finished, %d parameters, %s%s",
        *(finished, config.study.trials, "steps" if by_gradient else "search trials"),
        len(setup.genome.space),
        "" if by_gradient else f"population {population}; ",
        setup.rules.ranking_text,
    )
    if finished >= config.study.trials > 0:
        log.info("the search is complete; %s", _how_to_go_on(setup))


def _how_to_go_on(setup: Setup) -> str:
    """Return how a study whose search is complete can be extended."""
    config = setup.config
    if setup.rules.by_gradient and config.study.trials >= config.max_trials:
        start = " instead of search.start" if config.search.start is not None else ""
        start = " instead of random_init" if config.random_init else start
        return (
            "its learning rate has fallen to 0: for more steps, start a study of another name with "
            f"study.start_from: {config.name}{start}"
        )
    return "to extend it, raise study.trials"


@contextlib.contextmanager
def _open_or_create(setup: Setup, database: Database) -> Iterator[optuna.Study]:
    """Open the study, or create it; delete a created one again if an error refuses its config.

    The caller holds `database.exclusive` if other processes may do the same.
    """
    name = setup.config.name
    existed = name in database.study_names()
    study = create_study(database, name)
    try:
        yield study
    except (ConfigError, StorageError):
        if not existed:
            optuna.delete_study(study_name=name, storage=database)
        raise


def create_or_find_study(
    setup: Setup, database: Database, choice: EngineChoice, num_workers: int = 1
) -> tuple[Trials, int]:
    """Create or find the study; return its trials and its population, which may depend on the
    number of workers.

    Raises StudyMismatch, and for a new study ConfigError if a filter matches nothing, or
    StorageError if `study.start_from` names a study that cannot be used. The caller holds
    `database.exclusive` if other processes may do the same.
    """
    with _open_or_create(setup, database) as study:
        active, _ = Workers(database, study._study_id).read_all(include_ended=False)
        earlier, is_new = setup.config.study.start_from, not active and not has_trials(study)
        if earlier is not None and is_new:
            previous = find_study(database, earlier, besides=setup.config.name)
            store_start(study, Trials(database, previous), ranges(setup.genome.space))
            if setup.held_out.tasks and not has_same_questions(previous, setup.search.digests()):
                log.warning(
                    "study.start_from: %s searched with other questions; if some of them are held "
                    "out here, the held-out scores are too high. To avoid this, use the same "
                    "question files and study.held_out",
                    earlier,
                )
        if is_new:
            setup.check_filters()
        population = check_fingerprint(setup, study, choice, bool(active), num_workers)
        return Trials(database, study), population


def enter_study(
    setup: Setup, database: Database, choice: EngineChoice, num_workers: int = 1
) -> tuple[Trials, int, str]:
    """Create or join the study; return its trials, its population and this worker's id.

    Holds `database.exclusive`, so that of two processes that create a study with different
    settings one is refused. Raises what `create_or_find_study` raises.
    """
    with database.exclusive(), _open_or_create(setup, database) as study:
        workers, watch = (
            Workers(database, study._study_id),
            Watch(setup.config.study.heartbeat_timeout),
        )
        listed, now = workers.read_all(include_ended=False)
        for record in watch.find_dead(listed, now):
            released = workers.reap(record)
            if released:
                log.info("worker %s died; its claim on %s is released", record.name, released[0])
        trials, population = create_or_find_study(setup, database, choice, num_workers)
        ScoreStore(database).remove_orphans()
        others = [record.name for record in workers.read_all(include_ended=False)[0]]
        if others:
            log.info("joining %s", ", ".join(others))
        elif left := workers.fail_unclaimed("its run ended unexpectedly"):
            log.info(
                "trials that were still marked as running have been marked as failed: %s", left
            )
        return trials, population, workers.register(choice.device)
