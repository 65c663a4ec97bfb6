"""Find, check and open the models of a study."""

import logging
from collections.abc import Mapping
from pathlib import Path

from objectives.models.locate import locate
from objectives.models.sources import Sources
from objectives.models.vocabulary import BASE, MODEL, UNION
from study.config.errors import ConfigError
from study.config.genome import references
from study.config.study import StudyConfig

log = logging.getLogger(__name__)


def open_models(config: StudyConfig) -> Sources:
    """Find the models of a study and check that they can be merged.

    Raises ConfigError and SourceError.
    """
    genome = config.genome
    names = references(genome)
    folders = {label: locate(name, config.folder) for label, name in names.items()}
    _check_distinct(names, folders, genome.base_model)
    if genome.base_model in genome.models and genome.method.base != "unused":
        log.warning(
            "base_model %s is also one of the models: it has no effect on a merge by %s",
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
    """Check that no two names refer to the same folder. Raises ConfigError."""
    names_by_inode: dict[tuple[int, int], str] = {}
    for label, folder in folders.items():
        status = folder.stat()
        name = names[label]
        first_name = names_by_inode.setdefault((status.st_dev, status.st_ino), name)
        if first_name != name:
            of_base = base in (first_name, name)
            remedy = "use the same spelling as base_model" if of_base else "list it once"
            raise ConfigError(
                f"genome.models: {first_name} and {name} are the same folder, "
                f"{folder.resolve()}; {remedy}"
            )


def check_contexts(sources: Sources, longest: int) -> None:
    """Log a warning for each model whose context is shorter than the longest prompt."""
    for label, checkpoint in sources.checkpoints.items():
        context = getattr(checkpoint.parsed, "max_position_embeddings", None)
        if checkpoint is not sources.reference and context is not None and longest > context:
            log.warning(
                "the longest prompt has %d tokens with its answer, but the context of %s is %d "
                "tokens: its answers to longer prompts may be poor",
                longest,
                label,
                context,
            )
