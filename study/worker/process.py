"""One of the processes of `--workers N`. Nothing here is slow to import."""

import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from objectives.engines.host_memory import available
from objectives.engines.vllm import child as vllm_child
from objectives.engines.vllm.settings import SIZES
from study.cli.boundary import begin
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import How
from study.cli.session import reported, start_logging

_OF_EACH = ("study.worker", "objectives.engines")
_OF_ALL = ("study.setup.engine", SIZES)
"""What is the same in all workers, so that one tells it."""
_TOLD_BEFORE = ("study.config.load", "study.setup.setup", "study.setup.tasks", "objectives.tasks")
"""Where the supervisor has warned already."""

_MOST_PER_CORE = 4
_LEAST_MEMORY = 300 * 10**6
"""Bytes that Python and PyTorch take before any model."""


@dataclass(frozen=True)
class Order:
    """What a worker process is told to do."""

    path: Path
    url: str
    budget: int
    how: How
    number: int
    together: int
    """How many such workers there are."""
    threads: int | None
    """What a worker that computes on the CPU may use, in a study that stores no number."""
    host_memory: int
    """Its share, in bytes."""
    seconds: float = math.inf
    """From its start until no new trial starts."""


def check_workers(count: int) -> None:
    """Whether this machine can run so many: each is a process with PyTorch and models.

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


def work(order: Order) -> None:
    """A worker process: search, and score what is compared on the held-out questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which stops us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by `without_ctrl_c`
    begin(signals=False)
    name = f"worker {order.number}: "
    with reported(name):
        threading.Thread(target=_end_with_parent, daemon=True).start()
        start_logging(name, logging.WARNING)
        _choose_news(order.number == 0)
        deadline = time.monotonic() + order.seconds if math.isfinite(order.seconds) else math.inf
        try:
            with Interrupts(signal.SIGTERM) as interrupts:
                _work(order, deadline, interrupts)
        except Interrupted as stop:  # the supervisor says so, once
            raise SystemExit(stop.exit_code) from None


def _work(order: Order, deadline: float, interrupts: Interrupts) -> None:
    from study.config.load import load_config

    read = load_config(order.path, order.how.task_folders, order.how.benchmarks)
    config = read.of_trials(order.budget)
    asked = config.engine
    vllm_child.prestart_if_likely(order.how.engine or asked.kind, asked.device, asked.eager)
    import torch

    from study.setup.engine import choose_engine

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    choice = replace(choose_engine(config, order.how.engine), host_memory=order.host_memory)
    choice.begin()
    from study.monitors.wandb import tracked
    from study.setup.setup import build
    from study.worker.start import open_worker

    setup = build(config, check_values=False)
    with open_worker(setup, order.url, choice, interrupts, order.together) as worker:
        with tracked(
            setup, worker.trials, worker.claims, worker.sampler.replay, order.how.wandb
        ) as track:
            worker.told = track
            reached = worker.search(deadline)
        if reached:
            worker.judge()


def _choose_news(tells_for_all: bool) -> None:
    levels = dict.fromkeys(_OF_EACH, logging.INFO) | dict.fromkeys(_TOLD_BEFORE, logging.ERROR)
    levels |= dict.fromkeys(_OF_ALL, logging.INFO if tells_for_all else logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _end_with_parent() -> None:
    """A supervisor that was killed leaves nothing behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
