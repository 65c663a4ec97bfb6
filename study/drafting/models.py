"""Inspect the models of a merge, and check whether a search by gradient fits in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.repocard import metadata_load

from objectives.engines.host_memory import available_memory
from objectives.engines.memory import ROW_TOKENS, sizes_of_gradient_step
from objectives.errors import EngineError, PositionsDiffer
from objectives.models.locate import locate, parts_of
from objectives.models.sources import Sources
from objectives.models.tokenizer import load_tokenizer
from objectives.models.vocabulary import BASE
from study.config.study import StudyConfig
from study.setup.models import open_models

_FILTERS = ("self_attn", "mlp")
_TEXT = "Reply with the number of the right option and nothing else."
"""An instruction like those of the default templates."""


@dataclass(frozen=True)
class Family:
    """The properties of models that can be merged, and what fits on this machine."""

    architecture: str
    layers: int
    parameters: int
    """The number of weights of one model."""
    filters: tuple[str, ...]
    """Filters for the attention and the MLP of a layer; empty if a layer has not got both."""
    chat_model: str | None
    """The value of `genome.tokenizer_source` that gives the merge a tokenizer with a chat template,
    "base" if possible; None if no model has a chat template."""
    reads_text: bool
    """Whether the merge's tokenizer has tokens for English text. That of a toy model may not."""
    device: str
    """The name of the GPU, or "this CPU"."""
    gradient_fits: bool
    """Whether a search by gradient fits in the memory of this machine."""
    positions_differ: bool
    """Whether the models have different position settings, so that `genome.config_source` is
    required."""


def base_in_cards(models: Sequence[str], folder: Path) -> str | None:
    """Return the base model that the models' cards name.

    Returns None if no card names one, if cards name different ones, or if it is one of the models.
    """
    bases: set[str] = set()
    for reference in models:
        card = locate(parts_of(reference, folder)[0], folder) / "README.md"
        try:
            named = (metadata_load(card) or {}).get("base_model") if card.is_file() else None
        except (OSError, ValueError):  # the card's metadata are invalid
            named = None
        names = named if isinstance(named, list) else [named]
        bases.update(name for name in names if isinstance(name, str))
    return bases.pop() if len(bases) == 1 and not bases & set(models) else None


def inspect_models(config: StudyConfig) -> Family:
    """Open the models of a config and compare them. Raises ConfigError and SourceError."""
    sources, positions_differ = _open(config)
    names = [info.name for info in sources.layout]
    filters = tuple(text for text in _FILTERS if any(f".{text}." in name for name in names))
    return Family(
        architecture=sources.reference.architecture,
        layers=sources.num_layers,
        parameters=sum(torch.Size(info.shape).numel() for info in sources.layout),
        filters=filters if len(filters) == len(_FILTERS) else (),
        chat_model=_chat_model(config, sources),
        reads_text=_reads_text(sources.vocabulary.tokenizer),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU",
        gradient_fits=_gradient_fits(config, sources),
        positions_differ=positions_differ,
    )


def _open(config: StudyConfig) -> tuple[Sources, bool]:
    """Return the models, and whether their position settings differ."""
    try:
        return open_models(config), False
    except PositionsDiffer:
        genome = config.genome.model_copy(update={"config_source": BASE})
        return open_models(config.model_copy(update={"genome": genome})), True


def _chat_model(config: StudyConfig, sources: Sources) -> str | None:
    if getattr(sources.vocabulary.tokenizer, "chat_template", None):
        return BASE
    for reference in config.genome.models:
        folder = locate(reference, config.folder)
        if getattr(load_tokenizer(reference, folder), "chat_template", None):
            return reference
    return None


def _reads_text(tokenizer: Any) -> bool:
    """Return whether a tokenizer has tokens for the words of an instruction."""
    if tokenizer is None:
        return True
    text: str = tokenizer.decode(tokenizer.encode(_TEXT), skip_special_tokens=True)
    return "".join(_TEXT.lower().split()) in "".join(text.lower().split())


def _gradient_fits(config: StudyConfig, sources: Sources) -> bool:
    """Return whether a search by gradient fits in memory, on the GPU if there is one."""
    method, batch = config.genome.merge_method, config.search.batch
    tokens = _row_tokens(sources, batch)
    if torch.cuda.is_available():
        needed = sizes_of_gradient_step(sources, "bfloat16", tokens, batch, method)
        memory = torch.cuda.get_device_properties(0).total_memory
        try:
            needed.choose_residence("auto", memory, available_memory())
        except EngineError:
            return False
        return True
    needed = sizes_of_gradient_step(sources, "float32", tokens, batch, method)
    return 2 * needed.model + needed.activations < available_memory()


def _row_tokens(sources: Sources, batch: int) -> int:
    """Return an upper bound of the tokens of a packed row, whose questions fit in the context."""
    context = getattr(sources.parsed_config("float32"), "max_position_embeddings", None)
    return min(ROW_TOKENS, batch * (context or ROW_TOKENS))
