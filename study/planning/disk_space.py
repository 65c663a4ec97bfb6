"""Checks of the disk before anything slow starts: the models' folders must exist, the folder of the
results must be writable, and it should have space for the final merge."""

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from objectives.errors import ExportError
from objectives.files.units import size_text
from objectives.models.locate import check_exists
from study.config.genome import PathConfig, references
from study.config.study import StudyConfig

from .merge_size import merged_bytes

log = logging.getLogger(__name__)

_REPORT_BYTES = 16 << 20
"""Bytes that the check writes to a temporary file; a report is smaller."""
_BLOCK = bytes(1 << 20)


def check_models(config: StudyConfig) -> None:
    """Raise SourceError if a model is a path without a folder."""
    for reference in references(config.genome).values():
        check_exists(reference, config.folder)


def check_room(config: StudyConfig) -> None:
    """Raise ExportError if runs/NAME cannot be written.

    Too little space for the final merge is only a warning: the search and the verdict do not need
    it, and space can be freed while they run.
    """
    folder = Path("runs", config.name)
    try:
        _check_folder(folder / "report")
        existing = _nearest_existing(folder)
        _try_writing(existing)
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise ExportError(
            f"the results cannot be written to {folder.absolute()}: {error.strerror or error}; "
            "make this folder writable, or run in another folder"
        ) from None
    genome = config.genome
    path = genome if isinstance(genome, PathConfig) else None
    size = merged_bytes(genome.base_model or genome.models[0], config.folder, path)
    if size is not None and free < size:
        log.warning(
            "%s has %s of free space, and the final merge takes %s: free some space "
            "before the study ends, or export the merge to another disk with study.export",
            *(folder.absolute(), size_text(free), size_text(size)),
        )


def _nearest_existing(folder: Path) -> Path:
    """Return the folder, or the closest of its parents that exists.

    The check creates no folder: a study that is refused leaves none, and of two runs that start
    together neither removes what the other one needs. Raises OSError if the path is impossible.
    """
    for path in (folder, *folder.parents):
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        if len(os.fsencode(folder.name)) > os.pathconf(path, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return path
    return Path()


def _check_folder(path: Path) -> None:
    """Raise OSError if the path exists and is not a writable folder."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(0, f"{path.name} is a broken link")
    if path.exists():
        if not path.is_dir():
            raise NotADirectoryError(0, f"{path.name} is not a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(0, f"{path.name} cannot be written")


def _try_writing(folder: Path) -> None:
    """Write a temporary file, which also finds quotas and read-only file systems.

    Raises OSError.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_REPORT_BYTES // len(_BLOCK)):
            file.write(_BLOCK)
        file.flush()
        os.fsync(file.fileno())
