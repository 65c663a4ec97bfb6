"""A worker process of `--workers N`. Nothing here is slow to import."""

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

from objectives.engines.host_memory import available
from objectives.engines.vllm.settings import SIZES
from study.cli.boundary import begin
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import RunOptions
from study.cli.session import reported, start_logging

from .start import HostShare, search, start_worker

_OF_EACH = ("study.worker", "study.monitors", "objectives.engines")
"""Loggers whose messages differ between workers."""
_OF_ALL = ("study.setup.engine", SIZES)
"""Loggers whose messages are the same in all workers, so that one worker shows them."""
_LOGGED_BEFORE = ("study.config.load", "study.setup.setup", "study.setup.tasks", "objectives.tasks")
"""Loggers whose warnings the supervisor has shown already."""

_MOST_PER_CORE = 4
_LEAST_MEMORY = 300 * 10**6
"""Bytes that Python and PyTorch take before any model."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker process does. It is pickled."""

    path: Path
    url: str
    budget: int
    options: RunOptions
    number: int
    share: HostShare
    seconds: float = math.inf
    """No trial starts so many seconds after the process has started."""


def check_workers(count: int) -> None:
    """Check that this machine can run so many processes with PyTorch and models.

    Raises ConfigError.
    """
    from study.config.errors import ConfigError

    cores, free = os.cpu_count() or 1, available()
    if count > _MOST_PER_CORE * cores:
        raise ConfigError(
            f"--workers {count}: this machine has {cores} CPU cores; at most "
            f"{_MOST_PER_CORE * cores} workers, {_MOST_PER_CORE} for each core"
        )
    if count * _LEAST_MEMORY > free:
        raise ConfigError(
            f"--workers {count}: {free / 1e9:.1f} GB of memory are free, and each worker takes "
            f"{_LEAST_MEMORY / 1e9:.1f} GB and its models; at most {free // _LEAST_MEMORY}"
        )


def work(spec: WorkerSpec) -> None:
    """Run a worker process: search, then score the held-out questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by `without_ctrl_c`
    begin(signals=False)
    name = f"worker {spec.number}: "
    with reported(name):
        threading.Thread(target=_end_with_parent, daemon=True).start()
        start_logging(name, logging.WARNING)
        _set_levels(shows_for_all=spec.number == 0)
        deadline = time.monotonic() + spec.seconds if math.isfinite(spec.seconds) else math.inf
        try:
            with Interrupts(signal.SIGTERM) as interrupts:
                _work(spec, deadline, interrupts)
        except Interrupted as stop:  # the supervisor reports it
            raise SystemExit(stop.exit_code) from None


def _work(spec: WorkerSpec, deadline: float, interrupts: Interrupts) -> None:
    from study.config.load import load_config

    options = spec.options
    config = load_config(spec.path, options.task_folders, options.benchmarks)
    config = config.of_trials(spec.budget)
    with start_worker(config, spec.url, options, interrupts, spec.share) as worker:
        from .observe import observers

        search(worker, observers(worker, options), deadline)


def _set_levels(shows_for_all: bool) -> None:
    levels = dict.fromkeys(_OF_EACH, logging.INFO) | dict.fromkeys(_LOGGED_BEFORE, logging.ERROR)
    levels |= dict.fromkeys(_OF_ALL, logging.INFO if shows_for_all else logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _end_with_parent() -> None:
    """End this process when the supervisor has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
