"""The studies in a database: found or made, and held to their fingerprint."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage

from storage.database.url import redacted

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
    """What was stored by `hold_fingerprint`; empty for a new study."""
    return dict(study.user_attrs.get(FINGERPRINT, {}))


def stored_budget(study: optuna.Study, otherwise: int) -> int:
    """The search trials that the last run was to reach, or what is given before there was one."""
    return int(study.user_attrs.get(BUDGET, otherwise))


def store_budget(study: optuna.Study, trials: int) -> None:
    """Keep how many search trials a run is to reach."""
    if study.user_attrs.get(BUDGET) != trials:
        study.set_user_attr(BUDGET, trials)


def stored_verdict(study: optuna.Study) -> dict[str, Any] | None:
    """What the last finished run came to, with `sentence`, `trial` and `after`; None before."""
    found = study.user_attrs.get(VERDICT)
    return None if found is None else dict(found)


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


def find_study(storage: RDBStorage, name: str, besides: str | None = None) -> optuna.Study:
    """A study that is there. Raises StorageError where it is not, which names others that are,
    `besides` one.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = sorted(study.study_name for study in storage.get_all_studies())
        known = [other for other in known if other != besides]
        there = f"; there are {', '.join(known[:5])}" if known else ""
        raise StorageError(f"no study {name} in {redacted(storage.url)}{there}") from None


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
