"""python -m study.export CONFIG --out DIR: write a trial's merge as a Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .boundary import main
from .command import ConfigPath, StorageUrl, TaskFolders, start_logging
from .escaping import say
from .interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.answers import Answers
    from storage.trials import TrialRecord

    from .judge import Judgement
    from .setup import Setup

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
    from storage.answers import Answers
    from storage.database import open_storage
    from storage.identity import study_identity
    from storage.studies import find_study, stored_budget
    from storage.trials import Trials

    from .config_file import load_config, study_url

    config = load_config(path, task_folders)
    url = study_url(config, storage)
    database = open_storage(url, create=False)
    study = find_study(database, config.name)
    from .engine_facts import use_stored_threads
    from .judge import judge
    from .setup import build, check_fingerprint

    setup = build(config.of_trials(stored_budget(study, config.study.trials)))
    check_fingerprint(setup, study)
    use_stored_threads(study)
    records, answers = Trials(database, study).all(), Answers(database)
    judgement = judge(setup, records, answers)
    chosen = choose(records, trial, judgement)
    identity = study_identity(database, study)
    return export_trial(setup, chosen, records, out, judgement, answers, url, overwrite, identity)


def choose(records: "Sequence[TrialRecord]", trial: str, judgement: "Judgement") -> "TrialRecord":
    """The trial that --trial names. Raises ConfigError."""
    from storage.trials import best_merge

    from .config import ConfigError

    if trial == "final":
        if judgement.final is None:
            raise ConfigError(f"--trial final: {judgement.sentence} --trial best needs no verdict")
        return judgement.final.candidate.record
    if trial == "best":
        best = best_merge(records)
        if best is None:
            raise ConfigError("--trial best: no merge has been scored yet")
        return best
    found = next((r for r in records if str(r.number) == trial), None)
    if found is None:
        raise ConfigError(
            f"--trial {trial}: must be final, best or a number from 0 to {len(records) - 1}"
        )
    if not found.complete:
        state = {"FAIL": "has failed"}.get(found.state.name, f"is {found.state.name.lower()}")
        state = "was interrupted" if found.interrupted else state
        raise ConfigError(f"--trial {trial}: that trial {state}, so there is nothing to export")
    return found


def export_trial(
    setup: "Setup",
    record: "TrialRecord",
    records: "Sequence[TrialRecord]",
    out: Path,
    judgement: "Judgement",
    answers: "Answers",
    url: str,
    overwrite: bool = False,
    identity: str | None = None,
) -> Path:
    """Write the merge that a trial scored, one of the `records`; gives the folder.

    Raises ExportError.
    """
    from objectives.merge.export import export as write

    from .candidates import recipe_of
    from .card import model_card, texts

    return write(
        recipe_of(record, setup.genome),
        setup.sources,
        setup.locations,
        out,
        model_card(setup, record, judgement, answers, setup.samples(record, records, answers)),
        overwrite,
        texts=texts(setup, record, judgement, url, identity),
    )


if __name__ == "__main__":
    main(export)
