"""Start and end the process that runs vLLM. This module imports quickly.

The process needs many seconds for its imports, so it is started early and receives its settings
later.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path

from .entry import run_server

_ON_CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_ALWAYS = {
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # an answer's last token may exceed the limit by one
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
}
_GPU = Path("/dev/nvidiactl")
"""This device file exists if NVIDIA's driver is loaded."""


@dataclass
class Child:
    """A running process and the state of the connection to it."""

    process: BaseProcess
    connection: Connection
    prompts_sent: int = 0
    """The number of prompts that have been sent to it."""
    busy: bool = True
    """Whether it is still working, or has failed, so that it will not end by itself."""

    def end(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for its end, then kill it and all processes it started."""
        with contextlib.suppress(OSError):
            self.connection.close()  # an idle process ends when its connection is closed
        self.process.join(timeout)
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()


_prestarted: list[tuple[dict[str, str], Child, Finalize]] = []
"""At most one process that is not acquired yet, with its environment.

The finalizer kills it at exit; Python would otherwise wait for its end.
"""


def extra_environment(device: str, eager: bool) -> dict[str, str]:
    """Return the variables to add; those already set are kept.

    They are for a process that runs vLLM on `device`, `cpu` or `cuda`.
    """
    environment = _ALWAYS | (_ON_CPU if device == "cpu" else {})
    if importlib.util.find_spec("flashinfer") is None:
        environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if eager:
        environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment


def prestart_if_likely(kind: str, device: str | None, eager: bool) -> None:
    """Start a process if the engine is probably vLLM.

    This is guessed without importing torch; call `prestart` or `discard` once the engine is known.
    """
    likely = device or ("cuda" if _GPU.exists() else "cpu")
    is_vllm = kind == "vllm" or (kind == "auto" and likely == "cuda")
    if is_vllm and likely in ("cpu", "cuda") and importlib.util.find_spec("vllm") is not None:
        prestart(extra_environment(likely, eager))


def prestart(environment: Mapping[str, str]) -> None:
    """Start a process ahead of its use. The next `acquire` with this environment returns it."""
    if _prestarted:
        existing, child, _ = _prestarted[0]
        if existing != dict(environment) or not child.process.is_alive():
            discard()
    if not _prestarted:
        child = _spawn(environment)
        at_exit = Finalize(None, child.end, args=(0.0,), exitpriority=10)
        _prestarted.append((dict(environment), child, at_exit))


def discard() -> None:
    """End the prestarted process, if there is one."""
    while _prestarted:
        _, child, at_exit = _prestarted.pop()
        at_exit.cancel()
        child.end(0.0)


def acquire(environment: Mapping[str, str]) -> Child:
    """Return a process that waits for its Settings: the prestarted one, or a new one."""
    prestart(environment)
    _, child, at_exit = _prestarted.pop()
    at_exit.cancel()
    return child


def _spawn(environment: Mapping[str, str]) -> Child:
    context = multiprocessing.get_context("spawn")
    connection, remote = context.Pipe()
    process = context.Process(target=run_server, args=(remote,), name="vLLM")
    with _environment(environment), without_ctrl_c():
        process.start()
    remote.close()
    return Child(process, connection)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes with SIGINT blocked; each unblocks it once it has installed its handler.

    The terminal sends SIGINT to all processes, and one that is still importing would print a
    traceback. In this process SIGINT is delivered at the end of the context.
    """
    resource_tracker.ensure_running()  # the first spawned process starts it, which unblocks SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set yet, for processes that are started in the context."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
