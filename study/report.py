"""python -m study.report CONFIG: the verdict and the report of a study, finished or running."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import ConfigPath, StorageUrl, TaskFolders
from study.cli.session import application, reported, start_logging

if TYPE_CHECKING:
    from study.config.schema import StudyConfig

Score = Annotated[bool, typer.Option("--score", help="start an engine and score what is missing")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="engine in place of the config's")
]


def report(
    config: ConfigPath,
    storage: StorageUrl = None,
    score: Score = False,
    engine: EngineName = None,
    as_json: AsJson = False,
    task_folders: TaskFolders = None,
) -> None:
    """Say what a study comes to and write its report, as far as it is scored."""
    start_logging()
    try:
        with Interrupts() as interrupts, reported():
            found, page = _report(config, task_folders or [], storage, score, engine, interrupts)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    print(found["verdict"]["sentence"])
    if found["unscored"]:
        print(f"not scored yet: {', '.join(found['unscored'])}")
    print(f"report: {page}")


def _report(
    path: Path,
    task_folders: list[Path],
    storage: str | None,
    score: bool,
    engine: str | None,
    interrupts: Interrupts,
) -> tuple[dict[str, Any], Path]:
    from storage.database.database import open_storage
    from storage.studies import find_study, stored_budget
    from storage.trials import Trials
    from study.config.errors import ConfigError
    from study.config.load import load_config, study_url

    config = load_config(path, task_folders)
    if engine is not None and not score:
        raise ConfigError(f"--engine {engine}: only --score starts an engine")
    url = study_url(config, storage)
    database = open_storage(url, create=False)
    trials = Trials(database, find_study(database, config.name))
    if not any(record.complete for record in trials.all()):
        raise ConfigError(f"no trial of study {config.name} has finished yet; nothing to report")
    from storage.scores import Answers
    from study.reporting.data import findings
    from study.reporting.page import write_report
    from study.setup.fingerprint import check_fingerprint
    from study.setup.setup import build
    from study.verdict.judge import judge

    config = config.of_trials(stored_budget(trials.study, config.study.trials))
    setup = build(config, check_values=False)
    check_fingerprint(setup, trials.study)
    if score:
        _score(config, url, engine, interrupts)
    answers = Answers(database)
    found = findings(setup, trials, answers, judge(setup, trials.all(), answers))
    return found, write_report(found, Path("runs", config.name, "report"), anew=True)


def _score(config: "StudyConfig", url: str, engine: str | None, interrupts: Interrupts) -> None:
    """What is compared, as one more worker beside those that run."""
    from study.setup.engine import choose_engine
    from study.setup.setup import build
    from study.worker.start import open_worker

    choice = choose_engine(config, engine)
    setup = build(config, check_values=not choice.reads_sources)
    with open_worker(setup, url, choice, interrupts) as worker:
        worker.conclude()


if __name__ == "__main__":
    application(report)()
