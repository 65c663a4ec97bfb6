"""The host memory that is available to this process, within the limits of its control groups."""

from collections.abc import Iterator
from pathlib import Path

MEMINFO, CGROUP_ROOT = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
SELF_CGROUP = Path("/proc/self/cgroup")
_CACHES = ("inactive_file", "active_file")
"""Page cache, which a control group counts as used and releases under memory pressure."""


def available(
    meminfo: Path = MEMINFO, cgroup_root: Path = CGROUP_ROOT, self_cgroup: Path = SELF_CGROUP
) -> int:
    """Return the available memory in bytes, page cache included.

    It is limited by the machine and by every control group (cgroup version 1 or 2) of this process,
    for example that of a container or a batch job.
    """
    free = 1024 * _numbers(meminfo).get("MemAvailable", 0)
    return max(0, min([free, *_available_in_groups(cgroup_root, self_cgroup)]))


def _available_in_groups(cgroup_root: Path, self_cgroup: Path) -> Iterator[int]:
    """Yield the bytes that each control group can still allocate."""
    for folder, limit_file, usage_file in _groups(cgroup_root, self_cgroup):
        try:
            limit, usage = (int((folder / name).read_text()) for name in (limit_file, usage_file))
        except (OSError, ValueError):  # there is no such file, or no limit
            continue
        statistics = _numbers(folder / "memory.stat")
        yield limit - usage + sum(statistics.get(name, 0) for name in _CACHES)


def _groups(cgroup_root: Path, self_cgroup: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folders of this process's groups, with the names of their limit and usage files.

    The order is from the innermost group to the root. In a container the innermost group may be
    mounted as the root, while its path is still that of the host.
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
    """Return the number in each line of a file, by the line's first word."""
    lines = [line.split() for line in _lines(path)]
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
