"""python -m study.export CONFIG --out DIR: write a trial's merge as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import ConfigPath, StorageUrl, TaskFolders
from study.cli.session import start_logging
from study.config.errors import ConfigError

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="folder to write")]
TrialChoice = Annotated[
    str, typer.Option("--trial", metavar="final|best|N", help="which trial's merge to write")
]
Overwrite = Annotated[bool, typer.Option(help="replace an existing folder or repository")]
Push = Annotated[
    str | None,
    typer.Option(metavar="USER/NAME", help="upload the folder to the hub, as a private model"),
]
Public = Annotated[bool, typer.Option("--public", help="with --push: make a new model public")]


def export(
    config: ConfigPath,
    out: Out,
    trial: TrialChoice = "final",
    storage: StorageUrl = None,
    overwrite: Overwrite = False,
    push: Push = None,
    public: Public = False,
    task_folders: TaskFolders = None,
) -> None:
    """Write a trial's merge as a Hugging Face folder, with its recipe, verdict and model card."""
    start_logging()
    check_address_space()
    with Interrupts():
        if public and push is None:
            raise ConfigError("--public: only --push USER/NAME uploads the merge")
        if push is not None:
            from study.artifacts.publish import check_repository

            check_repository(push, overwrite)
        folder, lines = _export(config, out, trial, storage, overwrite, task_folders or [])
        say(folder)
        if push is not None:
            from study.artifacts.publish import upload

            say(upload(folder, push, public, f"Merge of the study {config.stem}"))
        for line in lines:
            say(line)


def _export(
    path: Path,
    out: Path,
    trial: str,
    storage: str | None,
    overwrite: bool,
    task_folders: list[Path],
) -> tuple[Path, list[str]]:
    """Export the trial; return the folder, and lines with the command that verifies it."""
    from objectives.export.target import check_target
    from study.artifacts.export import check_trial, choose, export_trial
    from study.config.load import load_config, study_url
    from study.setup.stored import open_study

    config = load_config(path, task_folders)
    check_target(out, overwrite)
    with open_study(config, study_url(config, storage)) as stored:
        check_trial(stored.records(), trial, config.file)
        from study.artifacts.origin import verify_lines  # these imports take seconds
        from study.setup.engine_facts import use_stored_threads
        from study.verdict.judge import judge

        setup = stored.setup(check_values=True)
        use_stored_threads(stored.study)
        records, answers = stored.records(), stored.answers
        judgement = judge(setup, records, answers)
        chosen = choose(records, trial, judgement)
        folder = export_trial(
            *(setup, chosen, records, out, judgement, answers),
            *(stored.url, overwrite, stored.identity),
        )
        return folder, verify_lines(folder, config, stored.url)


if __name__ == "__main__":
    main(export)
