"""How a process is identified, and whether it is still alive."""

import contextlib
import os
from pathlib import Path


def process_name() -> str:
    """This process, as `is_gone` finds it again: machine, namespace, number, start."""
    return "/".join([*_machine(), str(os.getpid()), _start(os.getpid()) or ""])


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; False where that cannot be seen from here."""
    *machine, pid, start = process.split("/")
    if machine != _machine() or "" in (*machine, start):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now = _start(int(pid))
    return now is not None and now != start


def _machine() -> list[str]:
    """This boot of this machine, and the namespace its process numbers count in."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    return ["", ""]


def _start(pid: int) -> str | None:
    """When a process started, in ticks since boot; "ended" for one that only waits to be reaped,
    None where it cannot be read."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    return None
