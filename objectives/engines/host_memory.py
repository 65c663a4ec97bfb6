"""How much memory of the host a process can have: of the machine, or of what it is confined to."""

from collections.abc import Iterator
from pathlib import Path

MACHINE, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CACHES = ("inactive_file", "active_file")
"""What a control group counts as used and gives up when asked."""


def available(machine: Path = MACHINE, groups: Path = GROUPS, own: Path = OWN) -> int:
    """Bytes that can be had, page cache included: of the machine, and within the limit of every
    control group (cgroup, version 1 or 2) that this process is in, as in a container or a job.
    """
    free = 1024 * _numbers(machine).get("MemAvailable", 0)
    return max(0, min([free, *_left(groups, own)]))


def _left(groups: Path, own: Path) -> Iterator[int]:
    """What each group may still take."""
    for folder, limit, used in _groups(groups, own):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # none there, or no limit
            continue
        kept = _numbers(folder / "memory.stat")
        yield most - now + sum(kept.get(name, 0) for name in _CACHES)


def _groups(groups: Path, own: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders of the groups, from the own one to the root, with the files of limit and use.

    In a container the root may be the own one, under whatever path the host knows it by.
    """
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = groups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for place in (inner := Path(path.lstrip("/")), *inner.parents):
            yield root / place, *files


def _numbers(path: Path) -> dict[str, int]:
    """Each line's name and number."""
    words = [line.split() for line in _lines(path)]
    return {line[0].rstrip(":"): int(line[1]) for line in words if len(line) > 1}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
