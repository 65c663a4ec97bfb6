"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="study.yaml or evol_merge_config.yaml")
]


STORAGE_VARIABLE = "STUDY_STORAGE"
"""The environment variable that takes the place of --storage."""
StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        help="database to use instead of the config's",
    ),
]


TaskFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--task-search-path",
        metavar="DIR",
        envvar="STUDY_TASK_SEARCH_PATH",
        help="folder of lm-eval tasks, whose code will run; can be repeated",
    ),
]


@dataclass(frozen=True)
class Wandb:
    """The project and entity at Weights & Biases that a run is logged to."""

    project: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that are not part of its config. Worker processes receive them too."""

    engine: str | None = None
    task_folders: tuple[Path, ...] = ()
    benchmarks: bool = False
    wandb: Wandb | None = None
