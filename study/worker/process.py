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

from objectives.engines.vllm import child as vllm_child
from objectives.engines.vllm.settings import SIZES
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import How
from study.cli.session import reported, start_logging

_OF_EACH = ("study.worker", "objectives.engines")
_OF_ALL = ("study.setup.engine", SIZES)
"""What is the same in all workers, so that one tells it."""
_TOLD_BEFORE = ("study.setup.setup", "study.setup.tasks", "objectives.tasks")
"""Where the supervisor has warned already."""


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
    """What a worker that computes on the CPU may use."""
    host_memory: int
    """Its share, in bytes."""
    seconds: float = math.inf
    """From its start until no new trial starts."""


def work(order: Order) -> None:
    """A worker process: search, and score what is compared on the held-out questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which stops us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start_logging(f"worker {order.number}: ", logging.WARNING)
    _choose_news(order.number == 0)
    deadline = time.monotonic() + order.seconds if math.isfinite(order.seconds) else math.inf
    try:
        with Interrupts(signal.SIGTERM) as interrupts, reported():
            _work(order, deadline, interrupts)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


def _work(order: Order, deadline: float, interrupts: Interrupts) -> None:
    from study.config.load import load_config

    read = load_config(order.path, order.how.task_folders, order.how.benchmarks)
    config = read.of_trials(order.budget)
    asked = config.engine
    vllm_child.begin_early(order.how.engine or asked.kind, asked.device, asked.eager)
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
        with tracked(worker, order.how.wandb) as track:
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
