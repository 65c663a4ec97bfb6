"""python -m study.plan CONFIG: what a study will take, before it takes anything."""

import json
from typing import Annotated, Any

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.options import ConfigPath, TaskFolders
from study.cli.session import start_logging
from study.planning.estimate import _GB, _plan

Gpu = Annotated[str, typer.Option("--gpu", help="h200, h100, a100, l40s, 4090, l4, or as 24GB")]
Host = Annotated[
    float,
    typer.Option("--host-memory", metavar="GB", min=0, help="of the host; its workers share it"),
]
Workers = Annotated[int, typer.Option(min=1, help="that run the study together on the host")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def plan(
    config: ConfigPath,
    gpu: Gpu = "h100",
    host_memory: Host = 128.0,
    workers: Workers = 1,
    as_json: AsJson = False,
    task_folders: TaskFolders = None,
) -> None:
    """Say what a study will take: parameters, generations, memory, tokens, and time."""
    start_logging()
    found = _plan(config, gpu, host_memory * _GB, workers, task_folders or [])
    say(json.dumps(found, indent=2) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"study {found['study']}: {found['parameters']} parameters, population "
        f"{found['population']}, {found['trials']} trials = {found['generations']} generations, "
        f"and {found['baselines']} baselines",
        f"memory on {found['gpu']}:",
        found["memory"],
    ]
    if found["sources"] is not None:
        ends = [f"{n} merges are asked all {what}" for what, n in found["in_the_end"].items()]
        lines.append("tokens of a trial:")
        lines += [
            f"  {name}: {t['questions']} questions, {t['shared']} tokens shared, {t['own']} own, "
            f"up to {t['decoded']} decoded"
            for name, t in found["tokens"].items()
        ]
        lines += [
            f"expected with sources: {found['sources']}, on {found['gpus']} x {found['gpu']}:",
            *(f"  {line}" for line in found["arithmetic"]),
            f"  in the end {' and '.join(ends)}: {found['seconds_in_the_end']:.0f} s",
            f"  {found['seconds_a_trial']:.2f} s a trial, the study {_duration(found['seconds'])}",
        ]
    lines += [f"warning: {text}" for text in found["warnings"]]
    return "\n".join(lines)


def _duration(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


if __name__ == "__main__":
    main(plan)
