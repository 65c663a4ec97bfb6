"""Write folders atomically: their contents are on the disk before they get their name."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written_beside(
    part: Path, folder: Path, rename: Callable[[Path, Path], object] = Path.rename
) -> Iterator[Path]:
    """Create `part`, to be filled in the context, and rename it to `folder` at the end.

    Both must be on the same file system. After an error `part` is removed and `folder` is as it
    was. Raises OSError.
    """
    try:
        part.mkdir(parents=True)
        yield part
        for path in part.rglob("*"):
            sync(path)
        rename(part, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
