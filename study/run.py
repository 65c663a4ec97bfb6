"""python -m study.run CONFIG: start a study, or resume it."""

import math
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import ConfigPath, StorageUrl, application, log_console, reported, start_logging
from .interrupts import Interrupted, Interrupts

if TYPE_CHECKING:
    import storage.trials

    from .setup import Setup

Trials = Annotated[int | None, typer.Option(help="search trials in all, in place of the config's")]
Timeout = Annotated[float | None, typer.Option(help="seconds after which no new trial starts")]
Workers = Annotated[
    int | None, typer.Option(help="processes on this host, one GPU each; none is this one alone")
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="engine in place of the config's")
]


def run(
    config: ConfigPath,
    storage: StorageUrl = None,
    trials: Trials = None,
    timeout: Timeout = None,
    workers: Workers = None,
    engine: EngineName = None,
) -> None:
    """Start a study, join it beside others, or resume it where it stopped."""
    start_logging()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        with Interrupts() as interrupts, reported():
            _run(config, storage, trials, deadline, workers, engine, interrupts)
    except Interrupted as stop:
        options = {"--storage": storage and _shown(storage), "--trials": trials}
        options |= {"--workers": workers, "--engine": engine}
        print(f"stopped by {stop}; this goes on from there:", file=sys.stderr)
        print(f"  {_command(config, options)}", file=sys.stderr)
        if storage and "***" in _shown(storage):
            print("  (with the password in place of ***)", file=sys.stderr)
        raise SystemExit(stop.exit_code) from None


def _run(
    path: Path,
    storage: str | None,
    trials: int | None,
    deadline: float,
    workers: int | None,
    engine: str | None,
    interrupts: Interrupts,
) -> None:
    from .config import ConfigError
    from .config_file import load_config, study_url

    config = load_config(path)
    for option, number in (("--trials", trials), ("--workers", workers)):
        if number is not None and number < 1:
            raise ConfigError(f"{option} {number}: must be at least 1")
    url = study_url(config, storage)
    budget = trials or config.study.trials
    from .setup import build  # torch from here on: what is wrong in the file is said before

    if workers is not None:
        from .supervisor import supervise

        setup, worked, reached = supervise(
            path, config, url, budget, deadline, workers, engine, interrupts
        )
        _conclude(setup, worked, reached)
        return
    from .engine_choice import choose_engine
    from .join import open_worker
    from .progress import Progress

    choice = choose_engine(config, engine)
    setup = build(config, check_values=not choice.reads_sources)
    with open_worker(setup, url, budget, choice, interrupts) as worker:
        with Progress(log_console, budget, worker.population) as progress:
            progress.told(worker.trials.all())
            worker.told = progress.told
            reached = worker.search(budget, deadline)
        if reached:
            worker.judge()
        _conclude(setup, worker.trials, reached)


def _conclude(setup: "Setup", trials: "storage.trials.Trials", reached: bool) -> None:
    from .conclude import conclude, show

    if reached:
        conclude(setup, trials)
    else:
        show(setup, trials)
        print("the study is not finished; the same command goes on")


def _shown(url: str) -> str:
    from storage.url import redacted

    return redacted(url)


def _command(config: Path, options: Mapping[str, object]) -> str:
    words = ["python", "-m", "study.run", str(config)]
    for name, value in options.items():
        words += [name, str(value)] if value is not None else []
    return shlex.join(words)


if __name__ == "__main__":
    application(run)()
