"""python -m study.verify DIR: whether an exported folder gives the answers that were scored."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.options import StorageUrl, TaskFolders
from study.cli.session import start_logging

if TYPE_CHECKING:
    from study.artifacts.check import Checked

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="an exported merge")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG", help="in place of the folder's")
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="engine in place of the config's")
]
DIFFERENT = 1


def verify(
    folder: Folder,
    config: Config = None,
    storage: StorageUrl = None,
    engine: EngineName = None,
    task_folders: TaskFolders = None,
) -> None:
    """Load an exported folder into a fresh engine, ask again, and compare every answer."""
    start_logging()
    with Interrupts():
        from study.artifacts.check import check

        found = check(folder, config, storage, engine, task_folders or [])
    for line in _lines(found):
        say(line)
    if any(part.equal < part.asked for part in found):
        raise SystemExit(DIFFERENT)


def _lines(found: "list[Checked]") -> list[str]:
    asked, equal = sum(p.asked for p in found), sum(p.equal for p in found)
    notes = [f"{p.split} questions of {p.task}: {p.note}" for p in found if p.note]
    different = [
        f"{p.split} questions of {p.task}: {p.asked - p.equal} of {p.asked} answers differ"
        for p in found
        if p.equal < p.asked
    ]
    return [*dict.fromkeys(notes), *different, f"{equal} of {asked} answers equal"]


if __name__ == "__main__":
    main(verify)
