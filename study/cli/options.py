"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="study.yaml or evol_merge_config.yaml")
]


StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="STUDY_STORAGE",
        help="database in place of the config's",
    ),
]


TaskFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--task-search-path",
        metavar="DIR",
        envvar="STUDY_TASK_SEARCH_PATH",
        help="folder of lm-eval tasks, whose code will run; may be given again",
    ),
]


@dataclass(frozen=True)
class Wandb:
    """Where a run is logged at Weights & Biases."""

    project: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class How:
    """What the command line of a run says beside its config; it crosses to worker processes."""

    engine: str | None = None
    task_folders: tuple[Path, ...] = ()
    benchmarks: bool = False
    wandb: Wandb | None = None
