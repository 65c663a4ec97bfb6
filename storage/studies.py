"""The studies in a database: found or made, and held to their fingerprint."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage

from storage.database.database import Database
from storage.database.url import printable, redacted

from .errors import StorageError, StudyMismatch

START = "start"


FINGERPRINT, VERDICT, BUDGET = "fingerprint", "verdict", "budget"


def create_study(storage: RDBStorage, name: str) -> optuna.Study:
    """The study of this name, made if it is not there. Raises StudyMismatch."""
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise StudyMismatch(
            f"the stored study {name} does not maximize one value; choose another study.name"
        )
    return study


def stored_fingerprint(study: optuna.Study) -> dict[str, str]:
    """What was stored by `hold_fingerprint`; empty for a new study, and for another program's."""
    stored = study.user_attrs.get(FINGERPRINT)
    if not isinstance(stored, dict) or not all(isinstance(fact, str) for fact in stored.values()):
        return {}
    if not stored.get("population", "0").isdecimal():
        raise _damaged(study, FINGERPRINT)
    return dict(stored)


def stored_budget(study: optuna.Study, otherwise: int) -> int:
    """The search trials that the last run was to reach, or what is given before there was one."""
    budget = study.user_attrs.get(BUDGET, otherwise)
    if type(budget) is not int or budget < 1:
        raise _damaged(study, BUDGET)
    return budget


def store_budget(study: optuna.Study, trials: int) -> None:
    """Keep how many search trials a run is to reach."""
    if study.user_attrs.get(BUDGET) != trials:
        study.set_user_attr(BUDGET, trials)


def stored_verdict(study: optuna.Study) -> dict[str, Any] | None:
    """What the last finished run came to, with `sentence`, `trial` and `after`; None before."""
    found = study.user_attrs.get(VERDICT)
    if found is None:
        return None
    kinds = {"sentence": str, "trial": int | None, "after": int}
    if not isinstance(found, dict) or not all(
        name in found and isinstance(found[name], kind) for name, kind in kinds.items()
    ):
        raise _damaged(study, VERDICT)
    return dict(found)


def store_verdict(study: optuna.Study, sentence: str, trial: int | None, after: int) -> bool:
    """Keep what a run came to after so many search trials; gives whether that is news."""
    verdict = {"sentence": sentence, "trial": trial, "after": after}
    if stored_verdict(study) == verdict:
        return False
    study.set_user_attr(VERDICT, verdict)
    return True


def hold_fingerprint(
    study: optuna.Study, fingerprint: Mapping[str, str], store: bool = True, begun: bool = False
) -> None:
    """Store it where nothing has begun, else compare. Raises StudyMismatch where they differ.

    A fingerprint says what a study searches over and by which rules, each entry a short text.
    A study has begun when it has a trial, or when the caller knows of a worker.
    """
    stored, name = stored_fingerprint(study), study.study_name
    if not begun and not has_trials(study):
        if store:
            study.set_user_attr(FINGERPRINT, dict(fingerprint))
        return
    if not stored:
        raise StudyMismatch(
            f"the stored study {name} was not made by this project; choose another study.name"
        )
    if differences := _differences(stored, fingerprint):
        listed = "\n".join(f"  {line}" for line in differences)
        raise StudyMismatch(
            f"the stored study {name} has other contents, so it is not resumed:\n{listed}\n"
            "put them back, or choose another study.name"
        )


def has_trials(study: optuna.Study) -> bool:
    """Whether it has any, without reading them: a thousand take seconds."""
    try:
        study._storage.get_trial_id_from_study_id_trial_number(study._study_id, 0)
    except KeyError:
        return False
    return True


def find_study(storage: Database, name: str, besides: str | None = None) -> optuna.Study:
    """Return a stored study of ours. Raises StorageError if there is none of this name, with the
    names of others, `besides` one, and if another program made it.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        others = [printable(other) for other in storage.study_names() if other != besides]
        there = f"; there are {', '.join(others[:5])}" if others else ""
        raise StorageError(f"no study {name} in {redacted(storage.url)}{there}") from None
    if stored_fingerprint(study):
        return study
    if has_trials(study):
        raise StorageError(
            f"study {name} in {redacted(storage.url)} was not made by merge-study; choose another "
            "study.name"
        )
    raise StorageError(
        f"study {name} in {redacted(storage.url)} has no trials: it was not made by merge-study, "
        "or python -m study.run has not begun it"
    )


def _damaged(study: optuna.Study, attribute: str) -> StorageError:
    return StorageError(
        f"the stored study {study.study_name} is damaged: its attribute {attribute} is not what "
        "merge-study writes; restore the database from a copy"
    )


def _differences(stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    lines = [
        f"{key}: {stored.get(key, 'nothing')} stored, {given.get(key, 'nothing')} now"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key) != given.get(key)
    ]
    return lines if len(lines) <= 8 else [*lines[:8], f"and {len(lines) - 8} more"]


def stored_start(study: optuna.Study) -> dict[str, Any] | None:
    """What `keep_start` stored; None where a study begins in the middle of its space."""
    found = study.user_attrs.get(START)
    return None if found is None else dict(found)
