"""The origin of a report: the program's version, the command and the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from storage.database.url import redacted
from study.cli.invocation import run_command
from study.config.genome import references
from study.config.load import study_url
from study.setup.setup import Setup


@dataclass(frozen=True)
class ModelReference:
    """A model and the place that it is read from; the fields are keys of report.json."""

    label: str
    reference: str
    """A folder or a hub id, as it stands in the study file."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a report; the fields are keys of report.json."""

    version: str
    """The version of the program that wrote the report."""
    command: str
    """The command that runs the study, without passwords."""
    models: Sequence[ModelReference]
    """The models, and the base last."""


def provenance(setup: Setup, url: str) -> Provenance:
    """Return the origin of a report on the study in the database at `url`.

    The command names the database if it is not that of the study file.
    """
    storage = None if url == study_url(setup.config) else redacted(url)
    return Provenance(
        version=version("merge-study"),
        command=run_command(setup.config, storage),
        models=[ModelReference(*item) for item in references(setup.config.genome).items()],
    )
