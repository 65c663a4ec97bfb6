"""python -m study.run CONFIG: start a study, or resume it."""

import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import ConfigPath, StorageUrl, application, log_console, reported, start_logging
from .interrupts import Interrupted, Interrupts

if TYPE_CHECKING:
    from .worker import Worker

Trials = Annotated[int | None, typer.Option(help="search trials in all, in place of the config's")]
Timeout = Annotated[float | None, typer.Option(help="seconds after which no new trial starts")]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="engine in place of the config's")
]


def run(
    config: ConfigPath,
    storage: StorageUrl = None,
    trials: Trials = None,
    timeout: Timeout = None,
    engine: EngineName = None,
) -> None:
    """Start a study, or resume it where it stopped."""
    start_logging()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with Interrupts() as interrupts:
        try:
            with reported():
                _run(config, storage, trials, deadline, engine, interrupts)
        except Interrupted as stop:
            options = {"--storage": storage and _shown(storage), "--trials": trials}
            print(f"stopped by {stop}; this goes on from there:", file=sys.stderr)
            print(f"  {_command(config, {**options, '--engine': engine})}", file=sys.stderr)
            if storage and "***" in _shown(storage):
                print("  (with the password in place of ***)", file=sys.stderr)
            raise SystemExit(stop.exit_code) from None


def _run(
    path: Path,
    storage: str | None,
    trials: int | None,
    deadline: float,
    engine: str | None,
    interrupts: Interrupts,
) -> None:
    from .config import ConfigError
    from .config_file import load_config, study_url

    config = load_config(path)
    if trials is not None and trials < 1:
        raise ConfigError(f"--trials {trials}: must be at least 1")
    url = study_url(config, storage)
    budget = trials or config.study.trials
    from .setup import build  # torch from here on: what is wrong in the file is said before
    from .worker import open_worker

    with open_worker(build(config), url, budget, engine, interrupts, log_console) as worker:
        reached = worker.search(budget, deadline)
        _conclude(worker, reached)


def _conclude(worker: "Worker", reached: bool) -> None:
    """Score the main merges on held-out questions, print the table, export the best."""
    from rich.console import Console

    from objectives.merge.export import holds
    from storage.trials import best_merge

    from .card import model_card
    from .export import export_trial
    from .summary import lines, recipe_of, table

    setup, records = worker.setup, worker.trials.all()
    shown = lines(records, setup.genome, worker.answers, worker.ask_held_out)
    tasks = [task.name for task in setup.config.tasks]
    Console(width=None if sys.stdout.isatty() else 140).print(table(shown, tasks))
    best = best_merge(records)
    if not reached or best is None:
        print("the budget is not reached; the same command goes on")
        return
    if best.baseline:
        print(f"no merge of the search beats the {best.baseline} one on the search questions")
    out = Path("runs", setup.config.name, f"merge-{best.number}")
    if not holds(out, recipe_of(best, setup.genome), setup.sources):
        card = model_card(setup, best, shown)
        export_trial(setup, best, out, card, overwrite=True)
    print(f"the budget is reached; the best merge is trial {best.number}: {out}")


def _shown(url: str) -> str:
    from storage.url import redacted

    return redacted(url)


def _command(config: Path, options: dict[str, object]) -> str:
    words = ["python", "-m", "study.run", str(config)]
    for name, value in options.items():
        words += [name, str(value)] if value is not None else []
    return shlex.join(words)


if __name__ == "__main__":
    application(run)()
