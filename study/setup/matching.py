"""Check whether a stored study was created with the settings of a config."""

from collections.abc import Collection, Mapping

import optuna

from storage.errors import StudyMismatch
from storage.studies import has_trials, store_or_check_fingerprint, stored_fingerprint, stored_start
from storage.trials import record
from study.config.errors import ConfigError
from study.search.space import ranges
from study.search.warm_start import points_to_start_from

from .engine import EngineChoice
from .engine_facts import engine_facts
from .fingerprint import is_same_search, without_new_facts
from .setup import Setup


def check_fingerprint(
    setup: Setup,
    study: optuna.Study,
    choice: EngineChoice | None = None,
    begun: bool = False,
    workers: int = 1,
) -> int:
    """Check that the stored fingerprint matches the config; return the study's population.

    If the config sets no population for CMA-ES, a study that has begun keeps its stored one, so
    that its budget may grow, and the population of a new study may depend on the number of
    `workers`. With
    the `choice` of an engine, store the fingerprint of a new study, and refuse an engine that
    computes in another dtype; without one, write nothing. Pass `begun` for a study that has
    workers but no trial yet.

    Raises StudyMismatch.
    """
    stored = stored_fingerprint(study)
    population = setup.rules.population(workers)
    kept = choice is None or begun or has_trials(study)
    unset = setup.config.study.population is None and not setup.rules.by_gradient
    if unset and "population" in stored and kept:
        population = int(stored["population"])
    facts = without_new_facts(setup.fingerprint(population, stored_start(study)), stored, kept)
    facts |= engine_facts(choice, stored, kept)
    try:
        store_or_check_fingerprint(study, facts, store=choice is not None, begun=begun)
    except StudyMismatch as error:
        if not error.differing:
            raise
        remedy = "restore these settings"
        if choice is not None:
            remedy += f", or {_new_study(setup, study, error.differing)}"
        raise StudyMismatch(f"{error}\n{remedy}", error.differing) from None
    return population


def _new_study(setup: Setup, study: optuna.Study, differing: Collection[str]) -> str:
    """Return how to search with the settings of the config instead."""
    text = "choose another study.name for a new study"
    if can_start_from(setup, study, differing):
        text += f"; with study.start_from: {study.study_name} it begins where this one ended"
    return text


def can_start_from(setup: Setup, earlier: optuna.Study, differing: Collection[str]) -> bool:
    """Return whether a new study with the settings of the config, which differ in these keys of the
    fingerprint, may name the earlier one in `study.start_from`."""
    config = setup.config
    refused = config.by_layers or config.random_init or config.search.start is not None
    if refused or not is_same_search(differing):
        return False
    records = [record(trial) for trial in earlier.get_trials(deepcopy=False)]
    try:
        points_to_start_from(earlier.study_name, records, ranges(setup.genome.space))
    except ConfigError:
        return False
    return True


def has_same_questions(earlier: optuna.Study, digests: Mapping[str, str]) -> bool:
    """Return whether a study searched with the questions that have these digests, and so never saw
    the questions that are held out beside them."""
    stored = stored_fingerprint(earlier)
    return all(stored.get(f"search questions of {task}") == text for task, text in digests.items())
