"""The studies in a database: found or made, held to their fingerprint, run by one process."""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from .url import StorageError, redacted, sqlite_path

FINGERPRINT = "fingerprint"


class StudyMismatch(Exception):
    """A stored study of this name has other contents: the differences are listed."""


class StudyBusy(Exception):
    """Another process runs this study."""


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


def hold_fingerprint(
    study: optuna.Study, fingerprint: Mapping[str, str], store: bool = True
) -> None:
    """Store it where there are no trials, else compare. Raises StudyMismatch where they differ.

    A fingerprint says what a study searches over and by which rules, each entry a short text.
    """
    stored, name = stored_fingerprint(study), study.study_name
    if not study.get_trials(deepcopy=False):
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


def find_study(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that is there. Raises StorageError where it is not."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = sorted(study.study_name for study in storage.get_all_studies())
        there = f"; there are {', '.join(known[:5])}" if known else ""
        raise StorageError(f"no study {name} in {redacted(storage.url)}{there}") from None


@contextlib.contextmanager
def sole_run(storage: RDBStorage, name: str) -> Iterator[None]:
    """Hold the right to run a study; it ends with the process, however that ends.

    Raises StudyBusy where another process holds it.
    """
    path = sqlite_path(storage.url)
    hold = _postgres_lock(storage.engine, name) if path is None else _file_lock(path, name)
    with hold:
        yield


@contextlib.contextmanager
def _file_lock(path: Path, name: str) -> Iterator[None]:
    with path.with_name(f"{path.name}-{_number(name):x}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyBusy(f"study {name} is being run by another process") from None
        yield


@contextlib.contextmanager
def _postgres_lock(engine: Engine, name: str) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = connection.execute(
            text("SELECT pg_try_advisory_lock(:number)"), {"number": _number(name)}
        )
        if not taken.scalar():
            raise StudyBusy(f"study {name} is being run by another process")
        try:
            yield
        finally:
            with contextlib.suppress(DBAPIError):  # a lost connection has given the lock back
                connection.execute(
                    text("SELECT pg_advisory_unlock(:number)"), {"number": _number(name)}
                )


def _number(name: str) -> int:
    digest = hashlib.blake2b(f"merge study {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _differences(stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    lines = [
        f"{key}: {stored.get(key, 'nothing')} stored, {given.get(key, 'nothing')} now"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key) != given.get(key)
    ]
    return lines if len(lines) <= 8 else [*lines[:8], f"and {len(lines) - 8} more"]
