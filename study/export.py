"""python -m study.export CONFIG --out DIR: write a trial's merge as a Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import ConfigPath, StorageUrl, TaskFolders
from study.cli.session import start_logging

if TYPE_CHECKING:
    pass
from study.artifacts.export import choose, export_trial

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="folder to write")]
TrialChoice = Annotated[
    str, typer.Option("--trial", metavar="final|best|N", help="which trial's merge to write")
]
Overwrite = Annotated[bool, typer.Option(help="replace the folder if it is there")]


def export(
    config: ConfigPath,
    out: Out,
    trial: TrialChoice = "final",
    storage: StorageUrl = None,
    overwrite: Overwrite = False,
    task_folders: TaskFolders = None,
) -> None:
    """Write a trial's merge as a Hugging Face folder, with its recipe, verdict and model card."""
    start_logging()
    with Interrupts():
        written = _export(config, out, trial, storage, overwrite, task_folders or [])
    say(written)


def _export(
    path: Path,
    out: Path,
    trial: str,
    storage: str | None,
    overwrite: bool,
    task_folders: list[Path],
) -> Path:
    from storage.database.database import open_storage
    from storage.identity import study_identity
    from storage.scores import ScoreStore
    from storage.studies import find_study, stored_budget
    from storage.trials import Trials
    from study.config.load import load_config, study_url

    config = load_config(path, task_folders)
    url = study_url(config, storage)
    database = open_storage(url, create=False)
    study = find_study(database, config.name)
    from study.setup.engine_facts import use_stored_threads
    from study.setup.fingerprint import check_fingerprint
    from study.setup.setup import build
    from study.verdict.judge import judge

    setup = build(config.of_trials(stored_budget(study, config.study.trials)))
    check_fingerprint(setup, study)
    use_stored_threads(study)
    records, answers = Trials(database, study).all(), ScoreStore(database)
    judgement = judge(setup, records, answers)
    chosen = choose(records, trial, judgement)
    identity = study_identity(database, study)
    return export_trial(setup, chosen, records, out, judgement, answers, url, overwrite, identity)


if __name__ == "__main__":
    main(export)
