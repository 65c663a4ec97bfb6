"""What a run needs on the disk, looked at before anything slow begins: a folder that can be written
for its results, and room for the merge that it exports in the end."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from objectives.errors import ExportError
from objectives.models.header import merged_bytes
from study.config.schema import StudyConfig

log = logging.getLogger(__name__)

_REPORT_BYTES = 16 << 20
"""Written and removed again: more than a report takes."""
_BLOCK = bytes(1 << 20)


def check_room(config: StudyConfig) -> None:
    """Raise ExportError if runs/NAME cannot be written.

    A merge that has no room now is only a warning: the search and its verdict do not need it, and
    room can be made while they run.
    """
    folder = Path("runs", config.name)
    try:
        with _made(folder):
            _check_folder(folder / "report")
            _try_writing(folder)
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ExportError(
            f"the results cannot be written to {folder.absolute()}: {error.strerror or error}; "
            "make it a folder that you can write, or run in another folder"
        ) from None
    size = merged_bytes(config.genome.base_model or config.genome.models[0], config.folder)
    if size is not None and free < size:
        log.warning(
            "%s has room for %.2f GB, and the merge that is exported in the end takes %.2f GB: "
            "make room before that, or export it elsewhere with study.export",
            *(folder.absolute(), free / 1e9, size / 1e9),
        )


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there; what was not there before is gone again in the end, if it is empty: a
    study that is refused leaves nothing."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()


def _check_folder(path: Path) -> None:
    """What is there must be a folder that can be written. Raises OSError."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(0, f"{path.name} is a link to nothing")
    if path.exists():
        if not path.is_dir():
            raise NotADirectoryError(0, f"{path.name} is not a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(0, f"{path.name} cannot be written")


def _try_writing(folder: Path) -> None:
    """Raises OSError: also quotas and read-only file systems show then."""
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
