"""python -m study.run CONFIG: start a study, or resume it."""

import importlib.util
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.invocation import invocation, missing_secret
from study.cli.options import ConfigPath, RunOptions, StorageUrl, TaskFolders, Wandb
from study.cli.session import log_console, start_logging

if TYPE_CHECKING:
    import storage.trials
    from study.config.study import StudyConfig
    from study.setup.setup import Setup

Trials = Annotated[
    int | None, typer.Option(help="total number of search trials, instead of the config's")
]
Timeout = Annotated[float | None, typer.Option(help="seconds after which no new trial starts")]
Workers = Annotated[
    int | None,
    typer.Option(help="worker processes on this host, one GPU each; default: this process only"),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="engine to use instead of the config's"),
]
_BENCHMARKS = "--i-understand-the-depths-of-the-evils-i-am-unleashing"
Benchmarks = Annotated[
    bool, typer.Option(_BENCHMARKS, help="allow common benchmarks as objectives")
]
UseWandb = Annotated[bool, typer.Option("--wandb", help="log to Weights & Biases")]
WandbProject = Annotated[str | None, typer.Option(help="wandb project; default: mergekit-evolve")]
WandbEntity = Annotated[str | None, typer.Option(help="wandb user or team")]


def run(
    config: ConfigPath,
    storage: StorageUrl = None,
    trials: Trials = None,
    timeout: Timeout = None,
    workers: Workers = None,
    engine: EngineName = None,
    task_folders: TaskFolders = None,
    benchmarks: Benchmarks = False,
    wandb: UseWandb = False,
    wandb_project: WandbProject = None,
    wandb_entity: WandbEntity = None,
) -> None:
    """Start a study, resume it, or join it as a further worker."""
    start_logging()
    check_address_space()
    target = Wandb(wandb_project, wandb_entity) if wandb else None
    run_options = RunOptions(engine, tuple(task_folders or ()), benchmarks, target)
    try:
        with Interrupts() as interrupts:
            _run(config, storage, trials, timeout, workers, run_options, interrupts)
    except Interrupted as stop:
        options: dict[str, object] = {
            "--storage": storage and _without_password(storage),
            "--trials": trials,
        }
        options |= {"--workers": workers, "--engine": engine}
        options |= {"--task-search-path": task_folders, "--wandb": wandb or None}
        options |= {"--wandb-project": wandb_project, "--wandb-entity": wandb_entity}
        options |= {_BENCHMARKS: benchmarks or None}
        print(f"interrupted by {stop}; to resume the study:", file=sys.stderr)
        print(f"  {_command(config, options)}", file=sys.stderr)
        if storage and (secret := missing_secret(storage)):
            print(f"  (with {secret})", file=sys.stderr)
        raise SystemExit(stop.exit_code) from None


def _run(
    path: Path,
    storage: str | None,
    trials: int | None,
    timeout: float | None,
    workers: int | None,
    options: RunOptions,
    interrupts: Interrupts,
) -> None:
    from study.config.errors import ConfigError
    from study.config.load import load_config, study_url
    from study.config.study import MAX_TRIALS

    deadline = math.inf if timeout is None else time.monotonic() + timeout
    config = load_config(path, options.task_folders, options.benchmarks)
    for option, number in (("--trials", trials), ("--workers", workers)):
        if number is not None and not 1 <= number <= MAX_TRIALS:
            raise ConfigError(f"{option} {number}: must be at least 1 and at most {MAX_TRIALS}")
    if timeout is not None and not timeout >= 0:
        raise ConfigError(f"--timeout {timeout:g}: must be at least 0")
    if trials is not None:
        config = config.with_trials(trials)
    if options.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("--wandb: wandb is not installed; pip install '.[wandb]'")
    from study.planning.disk_space import check_models, check_room

    check_room(config)  # may take seconds: it reads models' headers
    url = study_url(config, storage)
    _check_database(config, url)
    check_models(config)
    if workers is None:
        _run_worker(config, url, deadline, options, interrupts)
        return
    from study.worker.process import check_workers

    check_workers(workers)
    from study.worker.supervisor import supervise

    setup, finished, reached = supervise(path, config, url, deadline, workers, options, interrupts)
    _finish(setup, finished, reached)


def _run_worker(
    config: "StudyConfig", url: str, deadline: float, options: RunOptions, interrupts: Interrupts
) -> None:
    """Run the study with this process as its worker."""
    from study.worker.start import search, start_worker

    with start_worker(config, url, options, interrupts) as worker:
        from study.monitors.cut_off_answers import CutOffAnswers
        from study.monitors.flat_scores import FlatScores
        from study.monitors.progress import Progress
        from study.worker.observe import create_monitors

        worker.store_budget()
        progress = Progress(
            *(log_console, config.study.trials, worker.population),
            lambda: worker.workers.count_alive(config.study.heartbeat_timeout),
        )
        warnings = FlatScores(len(worker.setup.genome.baselines())), CutOffAnswers()
        reached = search(worker, create_monitors(worker, options, progress, *warnings), deadline)
        _finish(worker.setup, worker.trials, reached)


def _check_database(config: "StudyConfig", url: str) -> None:
    """Check the database before any model is read. Raises StorageError if it cannot be used."""
    from storage.database.rights import check_rights

    models = [str(name).rpartition("/")[2] for name in config.genome.models]
    check_rights(url, [config.name, *(task.name for task in config.tasks), *models])


def _finish(setup: "Setup", trials: "storage.trials.Trials", reached: bool) -> None:
    from study.artifacts.finish import finish_run, show

    if reached:
        finish_run(setup, trials)
    else:
        show(setup, trials)
        print("the study is not finished; run the same command to resume it")


def _without_password(url: str) -> str:
    from storage.database.url import redacted

    return redacted(url)


def _command(config: Path, options: Mapping[str, object]) -> str:
    words = [str(config)]
    for name, value in options.items():
        if value is True:
            words.append(name)
        else:
            values = value if isinstance(value, list) else [] if value is None else [value]
            words += [word for item in values for word in (name, str(item))]
    return invocation("run", words)


if __name__ == "__main__":
    main(run)
