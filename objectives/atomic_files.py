"""Writing that survives a crash: what is renamed into place is on the disk before."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
