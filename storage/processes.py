"""Identify a process and find out whether it is still running."""

import contextlib
import os
from pathlib import Path


def process_name() -> str:
    """Return this process's boot id, PID namespace, PID and start time, for `has_ended`."""
    return "/".join([*_machine(), str(os.getpid()), _start_time(os.getpid()) or ""])


def has_ended(process: str) -> bool:
    """Return whether a process of this machine has ended; False if that cannot be determined."""
    *machine, pid, start = process.split("/")
    if machine != _machine() or "" in (*machine, start):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    current = _start_time(int(pid))
    return current is not None and current != start


def _machine() -> list[str]:
    """Return the boot id of this machine and the PID namespace; empty strings if unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    return ["", ""]


def _start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot.

    Returns "ended" for a zombie, and None if the process cannot be read.
    """
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    return None
