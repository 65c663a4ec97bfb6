"""python -m study.plan CONFIG: estimate what a study needs before it runs."""

import json
from typing import Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.options import ConfigPath, TaskFolders
from study.cli.session import start_logging

Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        help="h200, h100, a100, l40s, 4090, l4, or a size such as 24GB; by default the GPU of this "
        "machine, or an h100",
    ),
]
HostMemory = Annotated[
    float,
    typer.Option(
        "--host-memory", metavar="GB", min=0, help="memory of the host, shared by its workers"
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="number of workers on the host")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def plan(
    config: ConfigPath,
    gpu: Gpu = None,
    host_memory: HostMemory = 128.0,
    workers: Workers = 1,
    as_json: AsJson = False,
    task_folders: TaskFolders = None,
) -> None:
    """Estimate what a study needs: parameters, generations, memory, tokens, and time."""
    start_logging()
    check_address_space()
    from study.config.load import load_config

    loaded = load_config(config, task_folders or [])
    from study.planning.disk_space import check_models

    check_models(loaded)
    from study.planning.data import GB, Hardware  # these imports take seconds
    from study.planning.estimate import estimate
    from study.planning.wording import estimate_text

    result = estimate(loaded, Hardware(gpu, host_memory * GB, workers))
    say(json.dumps(result.to_dict(), indent=2) if as_json else estimate_text(result))


if __name__ == "__main__":
    main(plan)
