"""How much memory of the host a process can have: of the machine, or of the container it is in."""

from collections.abc import Iterator
from pathlib import Path

MACHINE, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_CACHES = ("inactive_file", "active_file")
"""What a container counts as used and gives up when asked."""


def available(together: int = 1, machine: Path = MACHINE, cgroup: Path = CGROUP) -> int:
    """Bytes that one of so many processes alike can have, page cache included.

    Each of them has its share of the whole, so that those that start at once do not all count
    on what is free.
    """
    sizes = _numbers(machine)
    total, free = (1024 * sizes.get(name, 0) for name in ("MemTotal", "MemAvailable"))
    for limit, used in _limits(cgroup):
        if limit < total:
            total, free = limit, min(free, limit - used)
    return max(0, min(free, total // together))


def _limits(cgroup: Path) -> Iterator[tuple[int, int]]:
    """What a container may take, and has: of cgroup's version 2, or 1."""
    for folder, limit, used in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # none there, or no limit
            continue
        kept = _numbers(folder / "memory.stat")
        yield most, now - sum(kept.get(name, 0) for name in _CACHES)


def _numbers(path: Path) -> dict[str, int]:
    """Each line's name and number."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
