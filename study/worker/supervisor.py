"""`--workers N`: worker processes on this host, started, watched, started again and stopped."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from objectives.engines.host_memory import available
from objectives.engines.vllm.child import without_ctrl_c
from storage.scores import Answers
from storage.studies import store_budget, stored_start
from storage.trials import TrialRecord, Trials
from study.cli.faults import FAILED
from study.cli.interrupts import Interrupts
from study.cli.options import How
from study.cli.session import log_console
from study.config.errors import ConfigError
from study.config.schema import StudyConfig
from study.monitors.flat_scores import FlatScores
from study.monitors.progress import Progress
from study.monitors.wandb import Log, both
from study.search.contenders import contenders
from study.search.jobs import Jobs
from study.setup.engine import EngineChoice, choose_engine
from study.setup.engine_facts import use_stored_threads
from study.setup.enter import announce, make_study, open_database
from study.setup.setup import Setup, build

from .held_out import has_held_out
from .process import Order, work

log = logging.getLogger(__name__)

DEATHS_IN_A_ROW = 3
_LONG_LIFE = 600.0
"""Seconds after which a worker's earlier deaths are forgiven."""
_LOOK_SECONDS, _LEAVE_SECONDS = 0.5, 60.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class Seat:
    """One worker's place on this host: its GPU, and the process that has it now."""

    order: Order
    gpu: str | None
    process: BaseProcess
    deaths: int = 0
    started: float = field(default_factory=time.monotonic)


def supervise(
    path: Path,
    config: StudyConfig,
    url: str,
    deadline: float,
    count: int,
    how: How,
    interrupts: Interrupts,
) -> tuple[Setup, Trials, bool]:
    """Run a study with `count` processes; gives its trials and whether it is finished.

    After `deadline`, a time of `time.monotonic`, no new trial starts.
    Raises ConfigError and what `make_study` raises; ends the program where every worker has
    failed.
    """
    choice = choose_engine(config, how.engine, probe=False)
    gpus = gpus_for(choice, count)
    setup = build(config, check_values=not choice.reads_sources, warn=True)
    database = open_database(setup, url, interrupts)
    try:
        with database.exclusive():
            trials, population = make_study(setup, database, choice, count)
            store_budget(trials.study, config.study.trials)
        announce(setup, url, trials.all(), population)
        log.info("starting %d worker%s", count, "s" if count > 1 else "")
        threads = None if gpus[0] else max(1, (os.cpu_count() or 1) // count)
        hows = [how, *[replace(how, wandb=None)] * (count - 1)]  # one logs for all
        budget = config.study.trials
        memory = available() // count  # before any of them takes its own
        orders = [
            Order(path, url, budget, h, n, count, threads, memory) for n, h in enumerate(hows)
        ]
        with Progress(log_console, budget, population) as progress:
            told = both(progress.told, FlatScores(len(setup.genome.baselines())).told)
            code = _run_all(orders, gpus, deadline, trials, told, interrupts)
        use_stored_threads(trials.study)
        records = trials.all()
        replay = setup.sampler(population, stored_start(trials.study)).replay
        reached = Jobs(setup.genome, replay, budget, setup.sampled).done(records)
        if code and not (reached and _is_judged(setup, Answers(database), records)):
            raise SystemExit(code)
        return setup, trials, reached
    finally:
        database.engine.dispose()


def _is_judged(setup: Setup, answers: Answers, records: Sequence[TrialRecord]) -> bool:
    """Whether all that is compared in the end has its held-out answers."""
    compared = contenders(records, setup.genome)
    return all(has_held_out(c.record, answers, setup.held_out) for c in compared)


def gpus_for(choice: EngineChoice, count: int) -> list[str | None]:
    """The GPU of each worker; None for each on a CPU. Raises ConfigError."""
    if torch.device(choice.device).type != "cuda":
        return [None] * count
    if torch.device(choice.device).index is not None:
        raise ConfigError(
            f"engine.device: {choice.device} is one GPU; with --workers write cuda, and choose "
            f"GPUs with {_VISIBLE}"
        )
    there, each = torch.cuda.device_count(), choice.config.tensor_parallel_size
    if count * each > there:
        takes = "a GPU" if each == 1 else f"{each} GPUs"
        raise ConfigError(f"--workers {count}: a worker takes {takes}, and here are {there}")
    visible = os.environ.get(_VISIBLE)
    names = visible.split(",") if visible else [str(n) for n in range(there)]
    return [",".join(names[n * each : (n + 1) * each]) for n in range(count)]


def _run_all(
    orders: Sequence[Order],
    gpus: Sequence[str | None],
    deadline: float,
    trials: Trials,
    told: Log,
    interrupts: Interrupts,
) -> int:
    """Keep the workers running until each has ended by itself; gives the first failing code."""
    seats: list[Seat] = []
    codes = []
    try:
        for order, gpu in zip(orders, gpus, strict=True):
            seats.append(Seat(order, gpu, _started(order, gpu, deadline)))
        running = list(seats)
        while running:
            told(trials.all())
            interrupts.pause(_LOOK_SECONDS)
            for seat in [s for s in running if s.process.exitcode is not None]:
                if not _again(seat, deadline):
                    running.remove(seat)
                    codes.append(seat.process.exitcode or 0)
    finally:
        _stop([seat.process for seat in seats])
    return next((code if code > 0 else FAILED for code in codes if code), 0)


def _again(seat: Seat, deadline: float) -> bool:
    """Start a worker again that was killed; not one that ended, nor one killed too often."""
    code = seat.process.exitcode
    assert code is not None
    if code >= 0:
        if code:
            log.warning("worker %d ended with exit code %d", seat.order.number, code)
        return False
    seat.deaths = 1 if time.monotonic() - seat.started > _LONG_LIFE else seat.deaths + 1
    how = signal.Signals(-code).name
    if seat.deaths == DEATHS_IN_A_ROW:
        log.warning("worker %d was killed by %s once more: it stays down", seat.order.number, how)
        return False
    log.warning("worker %d was killed by %s: starting it again", seat.order.number, how)
    seat.process, seat.started = _started(seat.order, seat.gpu, deadline), time.monotonic()
    return True


def _started(order: Order, gpu: str | None, deadline: float) -> BaseProcess:
    left = replace(order, seconds=deadline - time.monotonic())
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(left,), name=f"worker {order.number}"
    )
    before = os.environ.get(_VISIBLE)
    try:
        if gpu is not None:
            os.environ[_VISIBLE] = gpu  # read once, when the process begins
        with without_ctrl_c():
            process.start()
    finally:
        if before is not None:
            os.environ[_VISIBLE] = before
        elif gpu is not None:
            del os.environ[_VISIBLE]
    return process


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.exitcode is None:
            process.terminate()
    until = time.monotonic() + _LEAVE_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
