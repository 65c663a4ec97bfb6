"""Start a worker, with slow steps in parallel: vLLM's process starts while the models are opened.

This module is fast to import, because vLLM's process is started before torch is imported.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from objectives.engines.vllm import child as vllm_child
from study.cli.interrupts import Interrupts
from study.cli.options import RunOptions
from study.config.study import StudyConfig

if TYPE_CHECKING:
    from study.monitors.monitor import Monitor

    from .worker import Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostShare:
    """The resources of the host that one of several workers may use."""

    num_workers: int
    threads: int | None
    """CPU threads if the study stores no number; None leaves torch's setting unchanged."""
    memory: int
    """In bytes."""


@contextlib.contextmanager
def start_worker(
    config: StudyConfig,
    url: str,
    options: RunOptions,
    interrupts: Interrupts,
    share: HostShare | None = None,
) -> "Iterator[Worker]":
    """Create or resume the study at `url`, and yield a worker of it with a running engine.

    A supervisor of several workers, which has already checked the models, passes `share`.

    Raises ConfigError, SourceError, QuestionError, TaskError, StorageError, StudyMismatch and
    EngineError.
    """
    engine, alone, times = config.engine, share is None, [time.monotonic()]
    if alone:
        log.info("importing PyTorch and transformers")
    vllm_child.prestart_if_likely(options.engine or engine.kind, engine.device, engine.eager)
    from study.setup.engine import choose_engine
    from study.setup.engine_facts import use_threads

    choice = choose_engine(config, options.engine)
    if share is not None:
        use_threads(share.threads)
        choice = replace(choice, host_memory=share.memory)
    choice.prestart()
    from study.setup.setup import build

    from .join import join_study

    times.append(time.monotonic())
    setup = build(config, check_values=alone and not choice.checks_values, warn=alone)
    num_workers = 1 if share is None else share.num_workers
    times.append(time.monotonic())
    with join_study(setup, url, choice, interrupts, num_workers) as worker:
        times.append(time.monotonic())
        if alone:
            log.info(
                "ready after %.1f s: imports %.1f s, models and questions %.1f s, database and "
                "engine %.1f s",
                *(times[-1] - times[0], *(after - before for before, after in pairwise(times))),
            )
        yield worker


def search(worker: "Worker", monitor: "Monitor", deadline: float) -> bool:
    """Run a worker until the budget is reached or `deadline`, a time of `time.monotonic`.

    If the budget is reached, score the held-out questions too and return True.
    """
    with monitor:
        worker.monitor = monitor
        reached = worker.search(deadline)
    if reached:
        worker.held_out.score_all()
    return reached
