"""A check of the disk before anything slow starts: the folder of the results must be writable, and
should have space for the final merge."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from objectives.errors import ExportError
from study.config.study import StudyConfig

from .merge_size import merged_bytes

log = logging.getLogger(__name__)

_REPORT_BYTES = 16 << 20
"""Bytes that the check writes and removes; a report is smaller."""
_BLOCK = bytes(1 << 20)


def check_room(config: StudyConfig) -> None:
    """Raise ExportError if runs/NAME cannot be written.

    Too little space for the final merge is only a warning: the search and the verdict do not need
    it, and space can be freed while they run.
    """
    folder = Path("runs", config.name)
    try:
        with _temporary(folder):
            _check_folder(folder / "report")
            _try_writing(folder)
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ExportError(
            f"the results cannot be written to {folder.absolute()}: {error.strerror or error}; "
            "make this folder writable, or run in another folder"
        ) from None
    size = merged_bytes(config.genome.base_model or config.genome.models[0], config.folder)
    if size is not None and free < size:
        log.warning(
            "%s has %.2f GB of free space, and the final merge takes %.2f GB: free some space "
            "before the study ends, or export the merge to another disk with study.export",
            *(folder.absolute(), free / 1e9, size / 1e9),
        )


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Create the folder; on exit, remove it and its parents if they are new and empty.

    A study that is refused thus leaves no folders.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()


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
    """Write and remove a file, which also finds quotas and read-only file systems.

    Raises OSError.
    """
    path = folder / f".room.part-{os.getpid()}"
    try:
        with path.open("xb") as file:
            for _ in range(_REPORT_BYTES // len(_BLOCK)):
                file.write(_BLOCK)
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
