"""Commands as a user can paste them: started the way that this process was started."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.config.study import StudyConfig

_SCRIPT = "merge-study"


def invocation(command: str, words: Iterable[str] = ()) -> str:
    """Return the shell command that runs a command of this program with these words.

    It names `merge-study` or the Python interpreter, whichever this process was started with, by a
    path if the shell would not find the same one by its name.
    """
    if Path(sys.argv[0]).name == _SCRIPT:
        start = [_found_as(_SCRIPT, sys.argv[0]), command]
    else:
        name = next((n for n in ("python", "python3") if _is_found(n, sys.executable)), "")
        start = [name or _shortest(sys.executable), "-m", f"study.{command}"]
    return shlex.join([*start, *words])


def run_command(config: "StudyConfig", storage: str | None = None) -> str:
    """Return the command that starts or resumes a study, for reports: it names no path of this
    machine's programs. `storage` is the database's URL without its password, or None if the
    command does not name it."""
    words = ["python", "-m", "study.run", str(config.file)]
    words += ["--storage", storage] if storage is not None else []
    words += ["--trials", str(config.trials_override)] if config.trials_override else []
    words += [
        word for folder in config.task_folders for word in ("--task-search-path", str(folder))
    ]
    return shlex.join(words)


def missing_secret(url: str) -> str | None:
    """Return what a user has to replace in a printed command that names the database at `url`; None
    if nothing is hidden."""
    from storage.database.url import redacted

    printed = redacted(url)
    if printed == url:
        return None
    return "the password instead of ***" if "***" in printed else "the whole URL"


def _found_as(name: str, path: str) -> str:
    return name if _is_found(name, path) else _shortest(path)


def _is_found(name: str, path: str) -> bool:
    """Return whether the shell finds this file by its name. Links are not followed: the
    interpreters of all virtual environments are links to the same file."""
    path_of_name = shutil.which(name)
    return path_of_name is not None and os.path.abspath(path_of_name) == os.path.abspath(path)


def _shortest(path: str) -> str:
    """Return the path relative to the working directory if it is inside, else absolute."""
    full, here = Path(os.path.abspath(path)), Path.cwd()
    if not full.is_relative_to(here):
        return str(full)
    return os.path.join("." if full.parent == here else "", full.relative_to(here))
