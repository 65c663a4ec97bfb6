"""The models of a study: found, told apart, and opened."""

import logging
from collections.abc import Mapping
from pathlib import Path

from objectives.models.locate import locate
from objectives.models.sources import Sources
from objectives.models.vocabulary import BASE, MODEL, UNION
from study.config.errors import ConfigError
from study.config.genome import references
from study.config.schema import StudyConfig

log = logging.getLogger(__name__)


def open_models(config: StudyConfig) -> Sources:
    """Find every model of a study and check that they merge. Raises ConfigError and SourceError."""
    genome = config.genome
    names = references(genome)
    folders = {label: locate(name, config.folder) for label, name in names.items()}
    _check_distinct(names, folders, genome.base_model)
    if genome.base_model in genome.models and genome.method.base != "unused":
        log.warning(
            "base_model %s is among the models too: it moves nothing in a merge by %s",
            genome.base_model,
            genome.merge_method,
        )
    label_of = {name: label for label, name in names.items()}
    reference = label_of[genome.base_model or genome.models[0]]
    vocabularies = {name: MODEL + label for name, label in label_of.items()}
    vocabularies |= {BASE: BASE, UNION: UNION}
    config_source = genome.config_source
    sources = Sources(
        folders,
        reference,
        vocabularies[genome.tokenizer_source or BASE],
        has_base=genome.base_model is not None and genome.method.base != "unused",
        config_source=config_source and label_of.get(config_source, reference),
    )
    sources.check_model()
    return sources


def _check_distinct(
    names: Mapping[str, str], folders: Mapping[str, Path], base: str | None
) -> None:
    """Refuse one folder under two spellings."""
    first: dict[tuple[int, int], str] = {}
    for label, folder in folders.items():
        status = folder.stat()
        name = names[label]
        other = first.setdefault((status.st_dev, status.st_ino), name)
        if other != name:
            raise ConfigError(
                f"genome.models: {other} and {name} are the same folder, {folder.resolve()}; "
                + ("write it as in base_model" if base in (other, name) else "list it once")
            )


def check_contexts(sources: Sources, longest: int) -> None:
    """Warn of models that take fewer tokens than the longest prompt has."""
    for label, checkpoint in sources.checkpoints.items():
        context = getattr(checkpoint.parsed, "max_position_embeddings", None)
        if checkpoint is not sources.reference and context is not None and longest > context:
            log.warning(
                "the longest prompt has %d tokens with its answer, and %s was made for %d: its "
                "answers beyond them may be poor",
                longest,
                label,
                context,
            )
