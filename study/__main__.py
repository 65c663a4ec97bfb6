"""All commands under one name: `merge-study COMMAND ...`, or `python -m study COMMAND ...`."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import NoReturn

from study.cli.boundary import main, run_and_exit

COMMANDS = ("init", "run", "plan", "status", "report", "export", "verify", "dashboard")


def command_of(name: str) -> Callable[..., None]:
    """Return the function of a command."""
    command: Callable[..., None] = getattr(importlib.import_module(f"study.{name}"), name)
    return command


def listing(program: str) -> str:
    """Return the help: every command with the first line of its description."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {inspect.getdoc(command_of(name))}" for name in COMMANDS]
    return "\n".join(
        [
            f"usage: {program} COMMAND ...",
            "",
            *lines,
            "",
            f"{program} COMMAND --help describes the options of a command; --version shows the "
            "version.",
            "Each command is a module too: python -m study.run, python -m study.report, ...",
        ]
    )


def _without_command(program: str, arguments: list[str]) -> None:
    from importlib.metadata import version

    if arguments[:1] == ["--version"]:
        print(f"merge-study {version('merge-study')}")
    elif arguments[:1] in ([], ["--help"], ["-h"]):
        print(listing(program))
    else:
        from study.cli.session import fail

        fail(f"unknown command {arguments[0]!r}; the commands are {', '.join(COMMANDS)}")


def start(program: str, arguments: list[str]) -> NoReturn:
    """Run the command in the first argument, and end the process."""
    if arguments and arguments[0] in COMMANDS:
        name, *rest = arguments
        run_and_exit(lambda: main(command_of(name), f"{program} {name}", rest))
    run_and_exit(lambda: _without_command(program, arguments))


def console_script() -> NoReturn:
    """Run the console script `merge-study`."""
    start("merge-study", sys.argv[1:])


if __name__ == "__main__":
    start("python -m study", sys.argv[1:])
