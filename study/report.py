"""python -m study.report CONFIG: the verdict and the report of a study, finished or running."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import ConfigPath, StorageUrl, TaskFolders
from study.cli.session import start_logging

if TYPE_CHECKING:
    from study.config.schema import StudyConfig
    from study.reporting.data import ReportData

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
    with Interrupts() as interrupts:
        data, page = _report(config, task_folders or [], storage, score, engine, interrupts)
    if as_json:
        print(json.dumps(data.to_dict(), indent=2, allow_nan=False))
        return
    say(data.verdict.sentence)
    if data.unscored:
        say(f"not scored yet: {', '.join(data.unscored)}")
    say(f"report: {page}")


def _report(
    path: Path,
    task_folders: list[Path],
    storage: str | None,
    score: bool,
    engine: str | None,
    interrupts: Interrupts,
) -> "tuple[ReportData, Path]":
    from storage.database.database import open_storage
    from storage.database.rights import check_rights
    from storage.studies import find_study, stored_budget
    from storage.trials import Trials
    from study.config.errors import ConfigError
    from study.config.load import load_config, study_url

    config = load_config(path, task_folders)
    if engine is not None and not score:
        raise ConfigError(f"--engine {engine}: only --score starts an engine")
    url = study_url(config, storage)
    if score:
        check_rights(url)
    database = open_storage(url, create=False)
    trials = Trials(database, find_study(database, config.name))
    if not any(record.complete for record in trials.all()):
        raise ConfigError(f"no trial of study {config.name} has finished yet; nothing to report")
    from storage.scores import Answers
    from study.artifacts.folders import report_place
    from study.reporting.data import report_data
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
    data = report_data(setup, trials, answers, judge(setup, trials.all(), answers))
    place = report_place(Path("runs", config.name), data.to_dict())
    return data, write_report(data, place, rewrite=True)


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
    main(report)
