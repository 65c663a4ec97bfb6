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

from objectives.engines import vllm_child

from .command import How, reported, start_logging
from .interrupts import Interrupted, Interrupts

_TOLD_BY_ALL = ("study.worker",)
_TOLD_BY_ONE = ("study.engine_choice", "objectives.engines")
"""Whose news are the same in all workers."""


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
    seconds: float = math.inf
    """From its start until no new trial starts."""


def work(order: Order) -> None:
    """A worker process: search, and score what is compared on the held-out questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which stops us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start_logging(f"worker {order.number}: ", logging.WARNING)
    for name in _TOLD_BY_ALL + (_TOLD_BY_ONE if order.number == 0 else ()):
        logging.getLogger(name).setLevel(logging.INFO)
    deadline = time.monotonic() + order.seconds if math.isfinite(order.seconds) else math.inf
    try:
        with Interrupts(signal.SIGTERM) as interrupts, reported():
            _work(order, deadline, interrupts)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


def _work(order: Order, deadline: float, interrupts: Interrupts) -> None:
    from .config_file import load_config

    read = load_config(order.path, order.how.task_folders, order.how.benchmarks)
    config = read.of_trials(order.budget)
    asked = config.engine
    vllm_child.begin_early(order.how.engine or asked.kind, asked.device, asked.eager)
    import torch

    from .engine_choice import choose_engine

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    choice = replace(choose_engine(config, order.how.engine), together=order.together)
    choice.begin()
    from .join import open_worker
    from .setup import build
    from .tracking import tracked

    setup = build(config, check_values=False)
    with open_worker(setup, order.url, choice, interrupts, order.together) as worker:
        with tracked(worker, order.how.wandb) as track:
            worker.told = track
            reached = worker.search(deadline)
        if reached:
            worker.judge()


def _end_with_parent() -> None:
    """A supervisor that was killed leaves nothing behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
