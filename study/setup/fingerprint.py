"""Whether a stored study was created with the same settings."""

from collections.abc import Mapping

import optuna

from storage.studies import has_trials, store_or_check_fingerprint, stored_fingerprint, stored_start

from .engine import EngineChoice
from .engine_facts import engine_facts, without_new_facts
from .setup import Setup


def check_fingerprint(
    setup: Setup,
    study: optuna.Study,
    choice: EngineChoice | None = None,
    begun: bool = False,
    workers: int = 1,
) -> int:
    """The study's population, once its stored fingerprint is found to be the config's.

    A population that the config does not give is the stored one of a study that has begun, so that
    its budget may grow. With the `choice` of an engine a new study's fingerprint is stored, and
    trials of another dtype are refused; without, nothing is written. A study with workers has
    `begun` before its first trial. A new study's population suits `workers` where the config lets
    it.
    Raises StudyMismatch.
    """
    stored = stored_fingerprint(study)
    population = setup.population(workers)
    kept = choice is None or begun or has_trials(study)
    if setup.config.study.population is None and "population" in stored and kept:
        population = int(stored["population"])
    facts = without_new_facts(setup.fingerprint(population, stored_start(study)), stored, kept)
    facts |= engine_facts(choice, stored, kept)
    store_or_check_fingerprint(study, facts, store=choice is not None, begun=begun)
    return population


def has_same_questions(earlier: optuna.Study, digests: Mapping[str, str]) -> bool:
    """Whether it searched with the search questions that have these digests, and so never saw what
    is held out from them."""
    stored = stored_fingerprint(earlier)
    return all(stored.get(f"search questions of {task}") == text for task, text in digests.items())
