"""Run a study with several worker processes on this host: start, restart and stop them."""

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

from objectives.engines.host_memory import available_memory
from objectives.engines.vllm.child import without_ctrl_c
from storage.gradients import GradientStore
from storage.scores import ScoreStore
from storage.studies import store_budget
from storage.trials import TrialRecord, Trials
from storage.workers import Workers
from study.cli.faults import FAILED
from study.cli.interrupts import Interrupts
from study.cli.options import RunOptions
from study.cli.session import log_console
from study.config.errors import ConfigError
from study.config.study import StudyConfig
from study.monitors.cut_off_answers import CutOffAnswers
from study.monitors.flat_scores import FlatScores
from study.monitors.monitor import Monitor, Monitors
from study.monitors.progress import Progress
from study.search.contenders import contenders
from study.setup.engine import EngineChoice, choose_engine
from study.setup.engine_facts import use_stored_threads
from study.setup.enter import create_or_find_study, log_start, open_database
from study.setup.setup import Setup, build

from .held_out import has_held_out
from .process import WorkerSpec, run_worker
from .start import HostShare

log = logging.getLogger(__name__)

MAX_DEATHS_IN_A_ROW = 3
_STABLE_SECONDS = 600.0
"""Seconds after which the earlier deaths of a running worker no longer count."""
_POLL_SECONDS, _SHUTDOWN_SECONDS = 0.5, 60.0
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass
class WorkerHandle:
    """A worker, its GPUs and its current process."""

    spec: WorkerSpec
    gpus: str | None
    process: BaseProcess
    deaths: int = 0
    started: float = field(default_factory=time.monotonic)


def supervise(
    path: Path,
    config: StudyConfig,
    url: str,
    deadline: float,
    count: int,
    options: RunOptions,
    interrupts: Interrupts,
) -> tuple[Setup, Trials, bool]:
    """Run a study with `count` processes; return its setup, its trials and whether the budget is
    reached.

    No trial starts after `deadline`, a time of `time.monotonic`.

    Raises ConfigError and what `create_or_find_study` raises. Ends the program with the exit code
    of a failed worker unless all trials and held-out scores are complete.
    """
    choice = choose_engine(config, options.engine, probe=False)
    gpus = gpus_for(choice, count)
    setup = build(config, check_values=not choice.checks_values, warn=True)
    database = open_database(setup, url, interrupts)
    try:
        with database.exclusive():
            trials, population = create_or_find_study(setup, database, choice, count)
            store_budget(trials.study, config.study.trials)
        log_start(setup, url, trials.all(), population)
        log.info("starting %d worker%s", count, "s" if count > 1 else "")
        threads = None if gpus[0] else max(1, (os.cpu_count() or 1) // count)
        others = replace(options, wandb=None)  # the first worker logs for all
        share = HostShare(count, threads, available_memory() // count)
        specs = [
            WorkerSpec(path, url, config.study.trials, others if n else options, n, share)
            for n in range(count)
        ]
        workers = Workers(database, trials.study._study_id)
        progress = Progress(
            *(log_console, config.study.trials, population),
            lambda: workers.count_alive(config.study.heartbeat_timeout),
        )
        with Monitors(
            progress, FlatScores(len(setup.genome.baselines())), CutOffAnswers()
        ) as monitors:
            code = _run_all(specs, gpus, deadline, trials, monitors, interrupts)
        use_stored_threads(trials.study)
        records = trials.all()
        gradients = GradientStore(database, trials.study._study_id)
        sampler = setup.sampler(trials.study, population, gradients)
        reached = setup.rules.jobs(sampler.replay).done(records)
        if code and not (reached and _is_fully_scored(setup, ScoreStore(database), records)):
            raise SystemExit(code)
        return setup, trials, reached
    finally:
        database.engine.dispose()


def _is_fully_scored(setup: Setup, answers: ScoreStore, records: Sequence[TrialRecord]) -> bool:
    """Return whether all contenders of the verdict have held-out answers."""
    of_verdict = contenders(records, setup.genome)
    return all(has_held_out(c.record, answers, setup.held_out) for c in of_verdict)


def gpus_for(choice: EngineChoice, count: int) -> list[str | None]:
    """Return the value of CUDA_VISIBLE_DEVICES for each worker; None on a CPU.

    Raises ConfigError.
    """
    if torch.device(choice.device).type != "cuda":
        return [None] * count
    if torch.device(choice.device).index is not None:
        raise ConfigError(
            f"engine.device: {choice.device} is a single GPU; with --workers set it to cuda, "
            f"and choose GPUs with {_VISIBLE_GPUS}"
        )
    available_gpus, each = torch.cuda.device_count(), choice.config.tensor_parallel_size
    if count * each > available_gpus:
        needed = "1 GPU" if each == 1 else f"{each} GPUs"
        raise ConfigError(
            f"--workers {count}: each worker needs {needed}, but this machine has {available_gpus}"
        )
    visible = os.environ.get(_VISIBLE_GPUS)
    names = visible.split(",") if visible else [str(n) for n in range(available_gpus)]
    return [",".join(names[n * each : (n + 1) * each]) for n in range(count)]


def _run_all(
    specs: Sequence[WorkerSpec],
    gpus: Sequence[str | None],
    deadline: float,
    trials: Trials,
    monitor: Monitor,
    interrupts: Interrupts,
) -> int:
    """Run the workers until all have ended, and restart those that are killed.

    Returns the first exit code that is not 0 (FAILED for a killed worker), or 0.
    """
    handles: list[WorkerHandle] = []
    codes = []
    try:
        for spec, visible in zip(specs, gpus, strict=True):
            handles.append(WorkerHandle(spec, visible, _start(spec, visible, deadline)))
        running = list(handles)
        while running:
            monitor.on_trials(trials.all())
            interrupts.pause(_POLL_SECONDS)
            for worker in [w for w in running if w.process.exitcode is not None]:
                if not _restart(worker, deadline):
                    running.remove(worker)
                    codes.append(worker.process.exitcode or 0)
    finally:
        _stop([worker.process for worker in handles])
    return next((code if code > 0 else FAILED for code in codes if code), 0)


def _restart(worker: WorkerHandle, deadline: float) -> bool:
    """Restart a worker that was killed.

    Returns False if it ended by itself, or has been killed MAX_DEATHS_IN_A_ROW times in a row.
    """
    code = worker.process.exitcode
    assert code is not None
    if code >= 0:
        if code:
            log.warning("worker %d ended with exit code %d", worker.spec.number, code)
        return False
    worker.deaths = 1 if time.monotonic() - worker.started > _STABLE_SECONDS else worker.deaths + 1
    name = signal.Signals(-code).name
    if worker.deaths == MAX_DEATHS_IN_A_ROW:
        log.warning(
            "worker %d was killed by %s again and is not restarted", worker.spec.number, name
        )
        return False
    log.warning("worker %d was killed by %s: restarting it", worker.spec.number, name)
    worker.process, worker.started = _start(worker.spec, worker.gpus, deadline), time.monotonic()
    return True


def _start(spec: WorkerSpec, gpus: str | None, deadline: float) -> BaseProcess:
    spec = replace(spec, seconds=deadline - time.monotonic())
    process = multiprocessing.get_context("spawn").Process(
        target=run_worker, args=(spec,), name=f"worker {spec.number}"
    )
    before = os.environ.get(_VISIBLE_GPUS)
    try:
        if gpus is not None:
            os.environ[_VISIBLE_GPUS] = gpus  # read once, when the process begins
        with without_ctrl_c():
            process.start()
    finally:
        if before is not None:
            os.environ[_VISIBLE_GPUS] = before
        elif gpus is not None:
            del os.environ[_VISIBLE_GPUS]
    return process


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.exitcode is None:
            process.terminate()
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
