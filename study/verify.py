"""python -m study.verify DIR: check that an exported folder reproduces the stored answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import StorageUrl, TaskFolders
from study.cli.session import start_logging

if TYPE_CHECKING:
    from study.artifacts.check import TaskCheck

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="an exported merge")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="CONFIG", help="config to use instead of the folder's"),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="engine to use instead of the config's"),
]
EXIT_DIFFERENT = 1


def verify(
    folder: Folder,
    config: Config = None,
    storage: StorageUrl = None,
    engine: EngineName = None,
    task_folders: TaskFolders = None,
) -> None:
    """Ask an exported folder all questions of its trial again, and compare the answers."""
    start_logging()
    check_address_space()
    with Interrupts():
        from study.artifacts.check import check

        checks = check(folder, config, storage, engine, task_folders or [])
    for line in _lines(checks):
        say(line)
    if any(c.equal < c.asked for c in checks):
        raise SystemExit(EXIT_DIFFERENT)


def _lines(checks: "list[TaskCheck]") -> list[str]:
    asked, equal = sum(c.asked for c in checks), sum(c.equal for c in checks)
    notes = [f"{c.split} questions of {c.task}: {c.note}" for c in checks if c.note]
    different = [
        f"{c.split} questions of {c.task}: {c.asked - c.equal} of {c.asked} answers differ"
        for c in checks
        if c.equal < c.asked
    ]
    counted = f"{equal} of {asked} answers equal"
    return [*dict.fromkeys(notes), *_samples(checks), *different, counted]


def _samples(checks: "list[TaskCheck]") -> list[str]:
    """Return a line if the trial was asked only some of the questions of a split."""
    parts = [
        f"{c.asked:,} of the {c.of:,} {c.split} questions of {c.task}"
        for c in checks
        if c.asked < c.of
    ]
    if not parts:
        return []
    return [f"only what the trial was asked is compared: {', '.join(parts)}"]


if __name__ == "__main__":
    main(verify)
