"""A worker process of `--workers N`. This module is fast to import."""

import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from objectives.engines.host_memory import available_memory
from objectives.engines.vllm.settings import MEMORY_LOGGER
from objectives.files.units import size_text
from study.cli.boundary import install_handlers
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import RunOptions
from study.cli.session import reporting_errors, start_logging

from .start import HostShare, search, start_worker

_PER_WORKER = ("study.worker", "study.monitors", "objectives.engines")
"""Loggers whose messages differ between workers."""
_COMMON = ("study.setup.engine", MEMORY_LOGGER)
"""Loggers whose messages are the same in all workers: only one worker shows them."""
_ALREADY_LOGGED = (
    "study.config.load",
    "study.setup.setup",
    "study.setup.tasks",
    "objectives.tasks",
)
"""Loggers whose warnings the supervisor has already shown."""

_MAX_PER_CORE = 4
_MIN_MEMORY = 300 * 10**6
"""Bytes that a process with PyTorch needs without a model."""


@dataclass(frozen=True)
class WorkerSpec:
    """The arguments of a worker process. They are pickled."""

    path: Path
    url: str
    budget: int
    options: RunOptions
    number: int
    share: HostShare
    seconds: float = math.inf
    """Seconds after the start of the process in which trials may start."""


def check_workers(count: int) -> None:
    """Check that this machine can run `count` workers.

    Raises ConfigError.
    """
    from study.config.errors import ConfigError

    cores, free = os.cpu_count() or 1, available_memory()
    if count > _MAX_PER_CORE * cores:
        raise ConfigError(
            f"--workers {count}: this machine has {cores} CPU cores; the maximum is "
            f"{_MAX_PER_CORE * cores} workers, {_MAX_PER_CORE} for each core"
        )
    if count * _MIN_MEMORY > free:
        raise ConfigError(
            f"--workers {count}: {size_text(free)} of memory are free, and each worker needs "
            f"{size_text(_MIN_MEMORY)} and its models; the maximum is {free // _MIN_MEMORY}"
        )


def run_worker(spec: WorkerSpec) -> None:
    """Run a worker in this process: search, then score the held-out questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by `without_ctrl_c`
    install_handlers(signals=False)
    name = f"worker {spec.number}: "
    with reporting_errors(name):
        threading.Thread(target=_end_with_supervisor, daemon=True).start()
        start_logging(name, logging.WARNING)
        _set_levels(shows_common=spec.number == 0)
        deadline = time.monotonic() + spec.seconds if math.isfinite(spec.seconds) else math.inf
        try:
            with Interrupts(signal.SIGTERM) as interrupts:
                _search(spec, deadline, interrupts)
        except Interrupted as stop:  # the supervisor reports it
            raise SystemExit(stop.exit_code) from None


def _search(spec: WorkerSpec, deadline: float, interrupts: Interrupts) -> None:
    from study.config.load import load_config

    options = spec.options
    config = load_config(spec.path, options.task_folders, options.benchmarks)
    config = config.with_trials(spec.budget)
    with start_worker(config, spec.url, options, interrupts, spec.share) as worker:
        from .observe import create_monitors

        search(worker, create_monitors(worker, options), deadline)


def _set_levels(shows_common: bool) -> None:
    levels = dict.fromkeys(_PER_WORKER, logging.INFO) | dict.fromkeys(
        _ALREADY_LOGGED, logging.ERROR
    )
    levels |= dict.fromkeys(_COMMON, logging.INFO if shows_common else logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _end_with_supervisor() -> None:
    """Wait until the supervisor has ended, even if it was killed, and then end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
