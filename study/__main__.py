"""python -m study: list the commands; python -m study NAME ...: run one of them."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import NoReturn

from study.cli.boundary import bounded, main

COMMANDS = ("run", "plan", "status", "report", "export", "verify", "dashboard")


def command_of(name: str) -> Callable[..., None]:
    """The function behind a command."""
    command: Callable[..., None] = getattr(importlib.import_module(f"study.{name}"), name)
    return command


def listing() -> str:
    """Every command with the first line of its help."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  python -m study.{name:<{width}}  {inspect.getdoc(command_of(name))}"
        for name in COMMANDS
    ]
    return "\n".join(
        [
            "usage: python -m study COMMAND ..., or python -m study.COMMAND ...",
            *lines,
            "--help after a command describes its options; --version is this program's.",
        ]
    )


def _without_command(arguments: list[str]) -> None:
    """What `python -m study` does itself: list the commands, or give the version."""
    from importlib.metadata import version

    if arguments[:1] == ["--version"]:
        print(f"merge-study {version('merge-study')}")
    elif arguments[:1] in ([], ["--help"], ["-h"]):
        print(listing())
    else:
        from study.cli.session import fail

        fail(f"{arguments[0]}: there is no such command; known are {', '.join(COMMANDS)}")


def start(arguments: list[str]) -> NoReturn:
    """Run what the arguments say, and end the process."""
    if arguments and arguments[0] in COMMANDS:
        name, *rest = arguments
        bounded(lambda: main(command_of(name), f"python -m study {name}", rest))
    bounded(lambda: _without_command(arguments))


if __name__ == "__main__":
    start(sys.argv[1:])
