"""The folder that an export is written to: whether it can be, how it appears whole or not at all,
and what is left of exports that were killed."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from objectives.errors import ExportError
from objectives.files.atomic_files import sync

from .manifest import EXPORTING, check_replaceable, recorded, remove

log = logging.getLogger(__name__)

_LEFT = re.compile(r"\.(.+)\.(part|old)-\d+")


def checked(out: Path, overwrite: bool, size: int) -> Path:
    """The folder to write, with the links above it resolved. Raises ExportError where it cannot be
    written: something is there that is not to be replaced, or `size` bytes have no room."""
    try:
        if out.name in ("", ".."):
            out = out.resolve()
        out = out.parent.resolve() / out.name
        _check_vacant(out, overwrite)
        _check_room(out.parent, size)
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise ExportError(f"cannot write {str(out)[:200]}: {_reason(error)}") from None
    return out


@contextlib.contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `out` in the end; gone after any error."""
    beside = out.with_name(f".{_shortened(out.name)}.part-{os.getpid()}")
    marker = beside / EXPORTING
    try:
        beside.mkdir(parents=True)
        with marker.open("w") as file:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield beside
            marker.unlink()
        for path in beside.rglob("*"):
            sync(path)
        _put(beside, out)
        sync(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed exports have left in a folder, and put back what they had moved aside.

    Only what an export wrote is touched: a folder in which another one is writing now, and any
    other of such a name, stays.
    """
    for left in sorted(folder.iterdir()):
        match = _LEFT.fullmatch(left.name)
        if match is None or left.is_symlink() or not left.is_dir():
            continue
        with contextlib.suppress(OSError, ExportError):  # it stays
            if match[2] == "part":
                _remove_part(left)
            elif (folder / match[1]).exists():
                check_replaceable(left)
                remove(left)
            else:
                recorded(left)
                left.rename(folder / match[1])


def _check_vacant(out: Path, overwrite: bool) -> None:
    try:
        mode = out.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise ExportError(f"{out} is a link, which is not followed; name the folder itself")
    if not stat.S_ISDIR(mode):
        what = "a file" if stat.S_ISREG(mode) else "not a folder"
        raise ExportError(f"{out} is {what}; choose another name")
    if os.path.ismount(out):
        raise ExportError(f"{out} is a mount point; name a new folder in it")
    if any(out.iterdir()):
        if not overwrite:
            raise ExportError(f"{out} is there already; choose another folder or --overwrite")
        check_replaceable(out)


def _check_room(folder: Path, size: int) -> None:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise ExportError(
            f"{there} has room for {free / 1e9:.2f} GB, and the merge takes {size / 1e9:.2f} GB; "
            "make room, or choose a folder on another disk"
        )


def _put(beside: Path, out: Path) -> None:
    """Rename a written folder into place; what was there goes after it."""
    if not out.exists() or not any(out.iterdir()):
        beside.rename(out)
        return
    old = out.with_name(f".{_shortened(out.name)}.old-{os.getpid()}")
    out.rename(old)
    try:
        beside.rename(out)
    except OSError:
        old.rename(out)
        raise
    try:
        remove(old)
    except (OSError, ExportError) as error:
        log.warning("%s, which was there before, could not be removed: %s", old, _reason(error))


def _remove_part(left: Path) -> None:
    """Remove a folder that an export was writing, unless it still is. Raises OSError."""
    with (left / EXPORTING).open("r+") as file:  # what has none is not from an export
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in left.iterdir():
            if path.name != EXPORTING:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (left / EXPORTING).unlink()
        left.rmdir()


def _shortened(name: str) -> str:
    """A name that has room for an ending: names may have 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
