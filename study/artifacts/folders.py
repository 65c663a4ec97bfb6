"""The folders under runs/NAME that a study writes. What a study of the same name in another
database has left there, or somebody has changed, stays: this one's then has its identity in the
name."""

import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from objectives.errors import ExportError
from objectives.export.manifest import check_replaceable
from objectives.files.export_files import json_of
from study.reporting.page import DATA_FILE, PICTURES

from .model_card import STUDY_FILE

log = logging.getLogger(__name__)


def report_place(folder: Path, found: Mapping[str, Any]) -> Path:
    """Where the report of these findings goes. Raises ExportError."""
    usual = folder / "report"
    place = next(
        place for place in _names(usual, found["identity"]) if _is_vacant_for_report(place, found)
    )
    if place != usual:
        log.warning(
            "%s is not this study's, but that of another of its name, or it has other files: this "
            "report goes to %s",
            *(usual, place),
        )
    return place


def merge_place(usual: Path, identity: str | None, url: str, study: str) -> Path:
    """Where a merge goes that is exported by itself, with leave to replace what is there.

    Raises ExportError.
    """
    place = next(
        place for place in _names(usual, identity) if _is_vacant(place, identity, url, study)
    )
    if place != usual:
        log.warning(
            "%s is another study's, or has been changed since it was exported: the merge goes to "
            "%s",
            *(usual, place),
        )
    return place


def named(usual: Path, identity: str | None) -> Path:
    """The folder beside the usual one that is this study's alone."""
    return usual.with_name(f"{usual.name}-{identity[:8] if identity else 'new'}")


def _names(usual: Path, identity: str | None) -> Iterator[Path]:
    other = named(usual, identity)
    yield from (usual, other)
    yield from (other.with_name(f"{other.name}-{number}") for number in itertools.count(2))


def _is_vacant_for_report(place: Path, found: Mapping[str, Any]) -> bool:
    """Whether nothing but this study's report is there."""
    try:
        names = {path.name for path in place.iterdir()}
    except FileNotFoundError:
        return not place.is_symlink()
    except OSError as error:
        raise ExportError(f"cannot write {place}: {error.strerror or error}") from None
    if DATA_FILE not in names:  # one that was never finished
        return all(name in PICTURES or ".png.part-" in name for name in names)
    try:
        data = json_of(place / DATA_FILE)
        if "identity" in data:
            return bool(data["identity"] == found["identity"])
        return bool(data["study"] == found["study"]) and _scores(data) <= _scores(found)
    except (ExportError, AttributeError, KeyError, TypeError, ValueError):
        return False


def _scores(found: Mapping[str, Any]) -> set[Any]:
    """What tells apart reports that do not name their study: the scores that they list."""
    scores = found["scores"]
    trials = zip(scores["generations"], scores["values"], strict=True)
    return {*trials, *scores["baselines"].items()}


def _names_database(text: str, url: str) -> bool:
    """Whether a URL that was written without its password names the database at `url`."""
    stored, ours = make_url(text), make_url(url)
    return (stored.host, stored.port, stored.database) == (ours.host, ours.port, ours.database)


def _is_vacant(place: Path, identity: str | None, url: str, study: str) -> bool:
    """Whether nothing is there, or an export of this study that nobody has changed."""
    if place.is_symlink():
        return False
    if not place.exists():
        return True
    try:
        if not place.is_dir():
            return False
        if not any(place.iterdir()):
            return True
        data = json_of(place / STUDY_FILE)
        same = data["study"] == study and (
            data["identity"] == identity
            if "identity" in data
            else _names_database(str(data["storage"]), url)
        )
        if same:
            check_replaceable(place)
        return bool(same)
    except (ExportError, ArgumentError, KeyError, TypeError, ValueError):
        return False
    except OSError as error:
        raise ExportError(f"cannot write {place}: {error.strerror or error}") from None
