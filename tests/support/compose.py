"""The services of docker-compose.yml as commands of this machine, without Docker."""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")
"""`${NAME}`, `${NAME:-default}` or `${NAME:?message}`."""


@dataclass(frozen=True)
class Service:
    """A service as Compose would start it."""

    words: list[str]
    """Its command with this interpreter, and with the paths of this machine in place of those of
    its bind mounts; empty if the image has the command."""
    environment: Mapping[str, str]
    health_check: list[str]
    restart: str


def services(variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services of the compose file with these environment variables."""
    data = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return {
        name: _service(_substituted(section, variables))
        for name, section in data["services"].items()
    }


def _service(section: Mapping[str, Any]) -> Service:
    command = section.get("command", "")
    for volume in section.get("volumes", []):
        source, _, target = volume.partition(":")
        if source.startswith(("/", ".")):  # a bind mount, not a named volume
            command = command.replace(f"{target}/", f"{Path(source)}/")
    words = shlex.split(command)
    assert words[:1] in ([], ["python"])
    return Service(
        words=[sys.executable, *words[1:]] if words else [],
        environment={name: str(text) for name, text in section.get("environment", {}).items()},
        health_check=section.get("healthcheck", {}).get("test", []),
        restart=section.get("restart", "no"),
    )


def _substituted(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a value of the file with its variables replaced. Raises KeyError for a missing one."""
    if isinstance(value, dict):
        return {key: _substituted(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda m: variables.get(m[1]) or m[2] or variables[m[1]], value)
