"""Check whether a stored study was created with the settings of a config."""

from collections.abc import Mapping

import optuna

from storage.studies import has_trials, store_or_check_fingerprint, stored_fingerprint, stored_start

from .engine import EngineChoice
from .engine_facts import engine_facts
from .fingerprint import without_new_facts
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
    store_or_check_fingerprint(study, facts, store=choice is not None, begun=begun)
    return population


def has_same_questions(earlier: optuna.Study, digests: Mapping[str, str]) -> bool:
    """Return whether a study searched with the questions that have these digests, and so never saw
    the questions that are held out beside them."""
    stored = stored_fingerprint(earlier)
    return all(stored.get(f"search questions of {task}") == text for task, text in digests.items())
