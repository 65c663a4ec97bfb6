"""python -m study.report CONFIG: the verdict and the report of a study, finished or running."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import ConfigPath, RunOptions, StorageUrl, TaskFolders
from study.cli.session import start_logging

if TYPE_CHECKING:
    from study.reporting.data import ReportData
    from study.setup.setup import Setup
    from study.setup.stored import StoredStudy

Score = Annotated[
    bool, typer.Option("--score", help="start an engine and score the missing merges")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="engine to use instead of the config's"),
]


def report(
    config: ConfigPath,
    storage: StorageUrl = None,
    score: Score = False,
    engine: EngineName = None,
    as_json: AsJson = False,
    task_folders: TaskFolders = None,
) -> None:
    """Print the verdict on a study and write its report, based on the scores that are stored."""
    start_logging()
    check_address_space()
    with Interrupts() as interrupts:
        data, page = _report(config, task_folders or [], storage, score, engine, interrupts)
    if as_json:
        print(json.dumps(data.to_dict(), indent=2, allow_nan=False))
        return
    from study.reporting.page import notes

    say(data.verdict.sentence)
    for sentence in notes(data):
        say(f"note: {sentence}")
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
    from storage.database.rights import check_rights
    from study.config.errors import ConfigError
    from study.config.load import load_config, study_url
    from study.setup.stored import open_study

    config = load_config(path, task_folders)
    if engine is not None and not score:
        raise ConfigError(f"--engine {engine}: only --score starts an engine")
    url = study_url(config, storage)
    if score:
        check_rights(url)
    with open_study(config, url) as stored:
        if not any(record.complete for record in stored.records()):
            raise ConfigError(f"study {config.name} has no finished trial to report yet")
        setup = _score(stored, engine, interrupts) if score else stored.setup()
        from study.artifacts.folders import report_folder
        from study.reporting.data import report_data
        from study.reporting.page import write_report
        from study.verdict.judge import judge

        judgement = judge(setup, stored.records(), stored.answers)
        data = report_data(setup, stored.trials, stored.answers, judgement)
        folder = report_folder(Path("runs", config.name), data.to_dict())
        return data, write_report(data, folder, rewrite=True)


def _score(stored: "StoredStudy", engine: str | None, interrupts: Interrupts) -> "Setup":
    """Score the missing final merges, as a worker like those that may be running."""
    from study.worker.start import start_worker

    with start_worker(stored.config, stored.url, RunOptions(engine), interrupts) as worker:
        worker.score_final_merges()
        return worker.setup


if __name__ == "__main__":
    main(report)
