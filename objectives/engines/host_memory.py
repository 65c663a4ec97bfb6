"""Read how much host memory this process can use, within the limits of its control groups."""

from collections.abc import Iterator
from pathlib import Path

MEMINFO, CGROUP_ROOT = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
SELF_CGROUP = Path("/proc/self/cgroup")
_CACHES = ("inactive_file", "active_file")
"""The entries of memory.stat for page cache, which a control group counts as used memory and
releases under memory pressure."""


def available_memory(
    meminfo: Path = MEMINFO, cgroup_root: Path = CGROUP_ROOT, self_cgroup: Path = SELF_CGROUP
) -> int:
    """Return the available host memory in bytes, including memory that holds page cache.

    This is the minimum over the machine and all control groups (cgroup version 1 or 2) that this
    process belongs to, for example the group of a container or of a batch job.
    """
    free = 1024 * _numbers(meminfo).get("MemAvailable", 0)
    return max(0, min([free, *_available_in_groups(cgroup_root, self_cgroup)]))


def _available_in_groups(cgroup_root: Path, self_cgroup: Path) -> Iterator[int]:
    """Yield how many bytes each control group with a limit can still allocate."""
    for folder, limit_file, usage_file in _groups(cgroup_root, self_cgroup):
        try:
            limit, usage = (int((folder / name).read_text()) for name in (limit_file, usage_file))
        except (OSError, ValueError):  # the group has no such files here, or its limit is "max"
            continue
        statistics = _numbers(folder / "memory.stat")
        yield limit - usage + sum(statistics.get(name, 0) for name in _CACHES)


def _groups(cgroup_root: Path, self_cgroup: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folders of this process's groups, with the names of their limit and usage files.

    The order is from the innermost group to the root. Not all folders exist in a container: there
    the container's group may be mounted as the root, although `self_cgroup` has its path on the
    host.
    """
    for line in _lines(self_cgroup):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = cgroup_root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = cgroup_root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for group in (inner := Path(path.lstrip("/")), *inner.parents):
            yield root / group, *files


def _numbers(path: Path) -> dict[str, int]:
    """Return the second word of each line of a file as a number, by the line's first word."""
    lines = [line.split() for line in _lines(path)]
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
