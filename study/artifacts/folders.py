"""The folders under runs/NAME that a study writes.

A folder that belongs to a study of the same name in another database, or that was changed, is not
replaced: the study then writes to a folder with its identity in the name.
"""

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


def report_folder(parent: Path, report: Mapping[str, Any]) -> Path:
    """Return the folder for a report; `report` is its data. Raises ExportError."""
    default = parent / "report"
    names = _candidates(default, report["identity"])
    folder = next(name for name in names if _is_free_for_report(name, report))
    if folder != default:
        log.warning(
            "%s belongs to another study of the same name, or has other files: the report "
            "is written to %s",
            *(default, folder),
        )
    return folder


def merge_folder(default: Path, identity: str | None, url: str, study: str) -> Path:
    """Return the folder for the merge at the end of a run; its contents may be replaced.

    Raises ExportError.
    """
    names = _candidates(default, identity)
    folder = next(name for name in names if _is_free(name, identity, url, study))
    if folder != default:
        log.warning(
            "%s belongs to another study, or was changed after the export: the merge is "
            "written to %s",
            *(default, folder),
        )
    return folder


def alternative(default: Path, identity: str | None) -> Path:
    """Return the folder with the study's identity in its name."""
    return default.with_name(f"{default.name}-{identity[:8] if identity else 'new'}")


def _candidates(default: Path, identity: str | None) -> Iterator[Path]:
    other = alternative(default, identity)
    yield from (default, other)
    yield from (other.with_name(f"{other.name}-{number}") for number in itertools.count(2))


def _is_free_for_report(folder: Path, report: Mapping[str, Any]) -> bool:
    """Return whether the folder is missing, or has only a report of this study."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return not folder.is_symlink()
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror or error}") from None
    if DATA_FILE not in names:  # an unfinished report
        return all(name in PICTURES or ".png.part-" in name for name in names)
    try:
        data = json_of(folder / DATA_FILE)
        if "identity" in data:
            return bool(data["identity"] == report["identity"])
        return bool(data["study"] == report["study"]) and _scores(data) <= _scores(report)
    except (ExportError, AttributeError, KeyError, TypeError, ValueError):
        return False


def _scores(report: Mapping[str, Any]) -> set[Any]:
    """Return the scores of a report, which identify its study if it has no `identity`."""
    scores = report["scores"]
    trials = zip(scores["generations"], scores["values"], strict=True)
    return {*trials, *scores["baselines"].items()}


def _names_database(text: str, url: str) -> bool:
    """Return whether a URL without its password names the database at `url`."""
    stored, own = make_url(text), make_url(url)
    return (stored.host, stored.port, stored.database) == (own.host, own.port, own.database)


def _is_free(folder: Path, identity: str | None, url: str, study: str) -> bool:
    """Return whether the folder is missing or empty, or is an unchanged export of this study."""
    if folder.is_symlink():
        return False
    if not folder.exists():
        return True
    try:
        if not folder.is_dir():
            return False
        if not any(folder.iterdir()):
            return True
        data = json_of(folder / STUDY_FILE)
        same = data["study"] == study and (
            data["identity"] == identity
            if "identity" in data
            else _names_database(str(data["storage"]), url)
        )
        if same:
            check_replaceable(folder)
        return bool(same)
    except (ExportError, ArgumentError, KeyError, TypeError, ValueError):
        return False
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror or error}") from None
