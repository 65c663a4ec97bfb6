"""The command that starts a study, resumes it, or adds a worker to it."""

import shlex

from study.config.study import StudyConfig


def run_command(config: StudyConfig, storage: str | None = None) -> str:
    """Return the command; `storage` is the database's URL without its password, or None if the
    command does not name it."""
    words = ["python", "-m", "study.run", str(config.file)]
    words += ["--storage", storage] if storage is not None else []
    words += ["--trials", str(config.trials_override)] if config.trials_override else []
    words += [
        word for folder in config.task_folders for word in ("--task-search-path", str(folder))
    ]
    return shlex.join(words)
