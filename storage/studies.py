"""Create and find studies, and compare them with their stored fingerprint."""

from collections.abc import Collection, Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage

from storage.database.database import Database
from storage.database.optuna_internals import has_first_trial
from storage.database.url import printable, redacted

from .errors import StorageError, StudyMismatch

START = "start"
FINGERPRINT, VERDICT, BUDGET = "fingerprint", "verdict", "budget"
_MAX_DIFFERENCES = 5
_MAX_NAMES = 5


def create_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Return the study of this name; create it if it does not exist. Raises StudyMismatch."""
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise StudyMismatch(
            f"the stored study {name} does not maximize a single value; choose another study.name"
        )
    return study


def stored_fingerprint(study: optuna.Study) -> dict[str, str]:
    """Return the stored fingerprint; empty for a new study and for another program's study.

    Raises StorageError if it is damaged.
    """
    stored = study.user_attrs.get(FINGERPRINT)
    if not isinstance(stored, dict) or not all(isinstance(fact, str) for fact in stored.values()):
        return {}
    if not stored.get("population", "0").isdecimal():
        raise _damaged(study, FINGERPRINT)
    return dict(stored)


def stored_budget(study: optuna.Study, default: int) -> int:
    """Return the number of search trials that the last run aimed at; `default` before any run.

    Raises StorageError if it is damaged.
    """
    budget = study.user_attrs.get(BUDGET, default)
    if type(budget) is not int or budget < 1:
        raise _damaged(study, BUDGET)
    return budget


def store_budget(study: optuna.Study, trials: int) -> None:
    """Store the number of search trials that a run aims at."""
    if study.user_attrs.get(BUDGET) != trials:
        study.set_user_attr(BUDGET, trials)


def stored_verdict(study: optuna.Study) -> dict[str, Any] | None:
    """Return the last verdict as `store_verdict` has stored it; None before the first one.

    Raises StorageError if it is damaged.
    """
    verdict = study.user_attrs.get(VERDICT)
    if verdict is None:
        return None
    types = {"sentence": str, "trial": int | None, "after": int}
    if not isinstance(verdict, dict) or not all(
        name in verdict and isinstance(verdict[name], type_) for name, type_ in types.items()
    ):
        raise _damaged(study, VERDICT)
    return dict(verdict)


def store_verdict(study: optuna.Study, sentence: str, trial: int | None, after: int) -> bool:
    """Store the verdict after so many search trials; return whether it differs from the last."""
    verdict = {"sentence": sentence, "trial": trial, "after": after}
    if stored_verdict(study) == verdict:
        return False
    study.set_user_attr(VERDICT, verdict)
    return True


def store_or_check_fingerprint(
    study: optuna.Study, fingerprint: Mapping[str, str], store: bool = True, begun: bool = False
) -> None:
    """Store the fingerprint of a new study; compare it with the stored one of any other.

    A fingerprint describes what a study searches over and by which rules; each entry is a short
    text. A study is new if it has no trials, unless `begun` says that it has workers already.
    Without `store` nothing is written. Raises StudyMismatch if the fingerprints differ.
    """
    stored, name = stored_fingerprint(study), study.study_name
    if not begun and not has_trials(study):
        if store:
            study.set_user_attr(FINGERPRINT, dict(fingerprint))
        return
    if not stored:
        raise StudyMismatch(
            f"the stored study {name} belongs to another program; choose another study.name"
        )
    differing = {
        key for key in stored.keys() | fingerprint.keys() if stored.get(key) != fingerprint.get(key)
    }
    if differing:
        lines = "\n".join(f"  {line}" for line in _differences(stored, fingerprint, differing))
        raise StudyMismatch(
            f"the stored study {name} was created with different settings:\n{lines}", differing
        )


def has_trials(study: optuna.Study) -> bool:
    """Return whether the study has any trial. Reading all of a thousand trials takes seconds."""
    return has_first_trial(study)


def find_study(storage: Database, name: str, besides: str | None = None) -> optuna.Study:
    """Return a stored study of this project.

    Raises StorageError if there is no study of this name, or if another program created it. The
    message lists the names of other studies, except `besides`.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        others = [printable(other) for other in storage.study_names() if other != besides]
        hint = f"; its studies are {', '.join(others[:_MAX_NAMES])}" if others else ""
        raise StorageError(f"no study {name} in {redacted(storage.url)}{hint}") from None
    if stored_fingerprint(study):
        return study
    if has_trials(study):
        raise StorageError(
            f"study {name} in {redacted(storage.url)} belongs to another program; choose "
            "another study.name"
        )
    raise StorageError(
        f"study {name} in {redacted(storage.url)} has no trials: it was not created by "
        "merge-study, or its run has not started a trial yet"
    )


def stored_start(study: optuna.Study) -> dict[str, Any] | None:
    """Return the stored starting point; None if the study starts in the middle of its space."""
    start = study.user_attrs.get(START)
    return None if start is None else dict(start)


def _damaged(study: optuna.Study, attribute: str) -> StorageError:
    return StorageError(
        f"the stored study {study.study_name} is damaged: its attribute {attribute} has a value "
        "that merge-study does not write; restore the database from a backup"
    )


def _differences(
    stored: Mapping[str, str], current: Mapping[str, str], differing: Collection[str]
) -> list[str]:
    """Return one line for each entry that differs; the last line counts those left out."""
    lines = [
        f"{key}: {stored.get(key, 'nothing')} stored, {current.get(key, 'nothing')} now"
        for key in sorted(differing)
    ]
    if len(lines) <= _MAX_DIFFERENCES:
        return lines
    return [*lines[:_MAX_DIFFERENCES], f"and {len(lines) - _MAX_DIFFERENCES} more"]
