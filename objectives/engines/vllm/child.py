"""The process that runs vLLM: begun, talked to and ended from here. Nothing here is slow to import.

Its imports take many seconds, so that it may be begun before it is known what it will run.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path

from .entry import run_server

_ON_CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_ALWAYS = {
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a last token that is never read may be one too many
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
}
_GPU = Path("/dev/nvidiactl")
"""There where NVIDIA's driver is."""


@dataclass
class Child:
    """The running process, and how many of the prompts it knows."""

    process: BaseProcess
    connection: Connection
    known: int = 0
    busy: bool = True

    def end(self, patience: float) -> None:
        """Wait so long for it to end by itself, then kill it and all that it started."""
        with contextlib.suppress(OSError):
            self.connection.close()  # one that waits ends itself when it sees that
        self.process.join(patience)
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()


_ahead: list[tuple[dict[str, str], Child, Finalize]] = []
"""At most one, begun and not yet taken, and what ends it at exit, which would wait for it."""


def environment_for(device: str, eager: bool) -> dict[str, str]:
    """Of a process that runs vLLM on `device`, cpu or cuda."""
    made = _ALWAYS | (_ON_CPU if device == "cpu" else {})
    if importlib.util.find_spec("flashinfer") is None:
        made["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if eager:
        made["TORCH_COMPILE_DISABLE"] = "1"
    return made


def begin_early(kind: str, device: str | None, eager: bool) -> None:
    """Start one if, as far as can be seen without torch, the engine that was asked for is vLLM.

    Whoever knows better calls `begin` or `give_up` then.
    """
    likely = device or ("cuda" if _GPU.exists() else "cpu")
    wanted = kind == "vllm" or (kind == "auto" and likely == "cuda")
    if wanted and likely in ("cpu", "cuda") and importlib.util.find_spec("vllm") is not None:
        begin(environment_for(likely, eager))


def begin(environment: Mapping[str, str]) -> None:
    """Start one ahead of its need; the next `take` with this environment gets it."""
    if _ahead and not (_ahead[0][0] == dict(environment) and _ahead[0][1].process.is_alive()):
        give_up()
    if not _ahead:
        child = _spawned(environment)
        at_exit = Finalize(None, child.end, args=(0.0,), exitpriority=10)
        _ahead.append((dict(environment), child, at_exit))


def give_up() -> None:
    """End the one that was started ahead, if there is one."""
    while _ahead:
        _, child, at_exit = _ahead.pop()
        at_exit.cancel()
        child.end(0.0)


def take(environment: Mapping[str, str]) -> Child:
    """A process that waits for its Settings."""
    begin(environment)
    _, child, at_exit = _ahead.pop()
    at_exit.cancel()
    return child


def _spawned(environment: Mapping[str, str]) -> Child:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_server, args=(theirs,), name="vLLM")
    with _environment(environment), without_ctrl_c():
        process.start()
    theirs.close()
    return Child(process, ours)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes in which SIGINT is blocked until they have said what it does there.

    The terminal sends it to all of them, and while they import they would answer with a traceback.
    Here it waits until this ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For a child process, which reads its environment as it begins."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
