"""The target folder of an export: check it, write it atomically, and remove leftovers."""

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from objectives.errors import ExportError
from objectives.files.atomic_files import written_beside
from objectives.files.units import size_text

from .manifest import EXPORTING, check_replaceable, recorded, remove

log = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\.(.+)\.(part|old)-\d+")


def check_target(out: Path, overwrite: bool) -> Path:
    """Return the target folder with the links in its parents resolved.

    Raises ExportError if the path is invalid, or if the folder exists and may not be replaced. It
    reads no weights: whether an export that would be replaced has changed is checked later.
    """
    return _checked_target(out, overwrite, recorded)


def resolve_target(out: Path, overwrite: bool, size: int) -> Path:
    """Return the target folder with the links in its parents resolved.

    Raises ExportError if the folder exists and may not be replaced, if there is not enough space
    for `size` bytes, or if the path is invalid.
    """
    out = _checked_target(out, overwrite, check_replaceable)
    with _explained(out):
        _check_room(out.parent, size)
    return out


@contextlib.contextmanager
def replace_atomically(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder to write into, which replaces `out` at the end.

    What has become of `out` in the meantime is checked again before it is replaced. After an error
    the new folder is removed and `out` is as it was. Raises ExportError and OSError.
    """
    if out.parent.is_dir():
        remove_leftovers(out.parent, _shortened(out.name))
    part = out.with_name(f".{_shortened(out.name)}.part-{_unique()}")
    with written_beside(part, out, partial(_replace, overwrite=overwrite)):
        marker = part / EXPORTING
        with marker.open("w") as file:
            with contextlib.suppress(OSError):  # not every file system supports locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield part
            marker.unlink()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed exports have left in a folder, and restore what they had renamed.

    With `name`, only what exports to this name have left.

    Folders that an export is writing now stay, and so do folders of such a name that no export
    wrote.
    """
    for path in sorted(folder.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        if name not in (None, match[1]):
            continue
        with contextlib.suppress(OSError, ExportError):  # then the folder stays
            if match[2] == "part":
                _remove_part(path)
            elif (folder / match[1]).exists():
                check_replaceable(path)
                remove(path)
            else:
                recorded(path)
                path.rename(folder / match[1])


def _checked_target(out: Path, overwrite: bool, check: Callable[[Path], object]) -> Path:
    with _explained(out):
        if out.name in ("", ".."):
            out = out.resolve()
        out = out.parent.resolve() / out.name
        _check_vacant(out, overwrite, check)
    return out


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a loop of links
        raise ExportError(f"cannot write {str(out)[:200]}: {_reason(error)}") from None


def _check_vacant(
    out: Path, overwrite: bool, check: Callable[[Path], object] = check_replaceable
) -> None:
    """Raise ExportError unless the folder is missing or empty, or, to `overwrite` it, passes the
    check."""
    try:
        mode = out.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise ExportError(f"{out} is a link, which is not followed; choose the folder itself")
    if not stat.S_ISDIR(mode):
        what = "a file" if stat.S_ISREG(mode) else "not a folder"
        raise ExportError(f"{out} is {what}; choose another name")
    if os.path.ismount(out):
        raise ExportError(f"{out} is a mount point; choose a new folder in it")
    if any(out.iterdir()):
        if not overwrite:
            raise ExportError(f"{out} already exists; choose another folder or use --overwrite")
        check(out)


def _check_room(folder: Path, size: int) -> None:
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if free < size:
        raise ExportError(
            f"{parent} has {size_text(free)} of free space, but the merge needs "
            f"{size_text(size)}; free some space, or choose a folder on another disk"
        )


def _replace(part: Path, out: Path, overwrite: bool) -> None:
    """Rename a written folder to `out`, then remove the folder that it replaces."""
    _check_vacant(out, overwrite)
    if not out.exists() or not any(out.iterdir()):
        part.rename(out)
        return
    old = out.with_name(f".{_shortened(out.name)}.old-{_unique()}")
    out.rename(old)
    try:
        check_replaceable(old)  # another process may have written into it
        part.rename(out)
    except (OSError, ExportError):
        old.rename(out)
        raise
    try:
        remove(old)
    except (OSError, ExportError) as error:
        log.warning("the replaced folder %s could not be removed: %s", old, _reason(error))


def _remove_part(part: Path) -> None:
    """Remove an unfinished folder, unless an export is still writing it. Raises OSError."""
    with (part / EXPORTING).open("r+") as file:  # without this file it is not from an export
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in part.iterdir():
            if path.name != EXPORTING:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (part / EXPORTING).unlink()
        part.rmdir()


def _unique() -> int:
    """Return a number that no other export uses; processes of two containers have equal ids."""
    return secrets.randbits(64)


def _shortened(name: str) -> str:
    """Return a name short enough for a suffix; file names have at most 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
