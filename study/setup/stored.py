"""A stored study, opened for reading. This module is fast to import."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import optuna

from storage.database.database import Database, open_storage
from storage.identity import study_identity
from storage.scores import ScoreStore
from storage.studies import (
    find_study,
    stored_budget,
    stored_fingerprint,
)
from storage.trials import TrialRecord, Trials
from study.config.study import StudyConfig

if TYPE_CHECKING:
    from .setup import Setup


@dataclass(frozen=True)
class StoredStudy:
    """A study in a database, with its config."""

    config: StudyConfig
    """The config, with the number of trials of the latest run."""
    database: Database
    study: optuna.Study

    @property
    def url(self) -> str:
        """The database's URL, with its password."""
        return self.database.url

    @cached_property
    def trials(self) -> Trials:
        return Trials(self.database, self.study)

    @cached_property
    def answers(self) -> ScoreStore:
        return ScoreStore(self.database)

    def records(self) -> list[TrialRecord]:
        """Return all trials, in the order of their creation."""
        return self.trials.all()

    @property
    def population(self) -> int:
        """The stored CMA-ES population; 0 if the study has not begun."""
        return int(stored_fingerprint(self.study).get("population", 0))

    @property
    def identity(self) -> str | None:
        """The id that tells this study from others of its name; None before its first trial."""
        return study_identity(self.database, self.study)

    def setup(self, check_values: bool = False) -> "Setup":
        """Open the models and tasks, and check that the study was created with them.

        Raises what `study.setup.setup.build` raises, and StudyMismatch.
        """
        from .matching import check_fingerprint
        from .setup import build

        setup = build(self.config, check_values)
        check_fingerprint(setup, self.study)
        return setup


@contextlib.contextmanager
def open_study(config: StudyConfig, url: str) -> Iterator[StoredStudy]:
    """Open the stored study of a config, and disconnect at the end. Raises StorageError."""
    database = open_storage(url, create=False)
    try:
        study = find_study(database, config.name)
        budget = stored_budget(study, config.study.trials)
        yield StoredStudy(config.with_trials(budget), database, study)
    finally:
        database.engine.dispose()
