"""How a process enters a study: create or join it, and register as a worker."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

import optuna

from storage.database.database import Database, open_storage
from storage.database.retry import RetryPolicy
from storage.database.url import redacted, sqlite_path
from storage.errors import StorageError
from storage.scores import ScoreStore
from storage.studies import create_study, find_study, has_trials
from storage.trials import TrialRecord, Trials
from storage.workers import Watch, Workers
from study.cli.interrupts import Interrupts
from study.config.errors import ConfigError
from study.search.state import SearchState
from study.search.warm_start import store_start

from .engine import EngineChoice
from .matching import check_fingerprint, has_same_questions
from .setup import Setup

log = logging.getLogger(__name__)


def open_database(setup: Setup, url: str, interrupts: Interrupts) -> Database:
    """The study's database, waited for as long as the config says when it is away.

    Raises StorageError.
    """
    earlier, path = setup.config.study.start_from, sqlite_path(url)
    if earlier is not None and path is not None and not path.exists():
        raise StorageError(f"study.start_from: {earlier}: there is no database {path}")
    retry_policy = RetryPolicy(setup.config.study.outage_limit, interrupts.pause)
    return open_storage(url, retry_policy=retry_policy)


def announce(setup: Setup, url: str, records: Sequence[TrialRecord], population: int) -> None:
    """Say what is about to be searched, and how far it is."""
    config, finished = setup.config, len(SearchState.of(records).finished)
    verb = "resuming" if records else "starting"
    log.info("%s study %s in %s", verb, config.name, redacted(url))
    log.info(
        "%d of %d search trials finished, %d parameters, population %d; %s",
        *(finished, config.study.trials, len(setup.genome.space), population),
        setup.rules.ranking_text,
    )


@contextlib.contextmanager
def _study_of(setup: Setup, database: Database) -> Iterator[optuna.Study]:
    """The study, made if it is not there; gone again if it was made for a config that is refused.

    For one process at a time, under `database.exclusive`.
    """
    name = setup.config.name
    known = name in database.study_names()
    study = create_study(database, name)
    try:
        yield study
    except (ConfigError, StorageError):
        if not known:
            optuna.delete_study(study_name=name, storage=database)
        raise


def make_study(
    setup: Setup, database: Database, choice: EngineChoice, together: int = 1
) -> tuple[Trials, int]:
    """Make or find a study for workers that start `together`; gives its trials and population.

    Raises StudyMismatch, and of a new study ConfigError or StorageError: where its filters match
    nothing, or `study.start_from` names a study that does not serve. Where others may do so too it
    needs `database.exclusive`.
    """
    with _study_of(setup, database) as study:
        at_work, _ = Workers(database, study._study_id).read_all(include_ended=False)
        earlier, is_new = setup.config.study.start_from, not at_work and not has_trials(study)
        if earlier is not None and is_new:
            found = find_study(database, earlier, besides=setup.config.name)
            store_start(study, Trials(database, found), setup.genome.space)
            if setup.held_out.tasks and not has_same_questions(found, setup.search.digests()):
                log.warning(
                    "study.start_from: %s searched with other questions; where some of them are "
                    "held out here, held-out scores come out too high. The same question files "
                    "and study.held_out keep them apart",
                    earlier,
                )
        if is_new:
            setup.check_filters()
        population = check_fingerprint(setup, study, choice, bool(at_work), together)
        return Trials(database, study), population


def enter_study(
    setup: Setup, database: Database, choice: EngineChoice, together: int = 1
) -> tuple[Trials, int, str]:
    """Make or join a study; gives its trials, its population and this worker's id.

    One process at a time does this, so that of two that begin a study with different contents
    one is refused. Raises StudyMismatch.
    """
    with database.exclusive(), _study_of(setup, database) as study:
        workers, watch = Workers(database, study._study_id), Watch(setup.config.study.grace)
        listed, now = workers.read_all(include_ended=False)
        for record in watch.find_dead(listed, now):
            freed = workers.reap(record)
            if freed:
                log.info("worker %s died during %s: it is free again", record.name, freed[0])
        trials, population = make_study(setup, database, choice, together)
        ScoreStore(database).remove_orphans()
        others = [record.name for record in workers.read_all(include_ended=False)[0]]
        if others:
            log.info("joining %s", ", ".join(others))
        elif left := workers.fail_unclaimed("its run ended without a word"):
            log.info("trials that were left running are failed: %s", left)
        return trials, population, workers.register(choice.device)
