"""What the process that runs vLLM is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

EXTENSION = "objectives.engines.vllm.extension.MergeExtension"


SIZES = "objectives.engines.memory"
"""The logger that reports how memory is used."""


@dataclass(frozen=True)
class Settings:
    """What the process is told: plain data."""

    folders: Mapping[str, str]
    reference: str
    tokenizer_source: str
    has_base: bool
    method: str
    device: str
    """cpu or cuda; which GPU, CUDA_VISIBLE_DEVICES says."""
    dtype: str
    longest: int
    """Tokens of the longest prompt and its answer."""
    batch_tokens: int
    """Tokens of a step."""
    sequences: int
    """Prompts of a step."""
    place: str
    """auto, gpu, pinned or file."""
    tensor_parallel_size: int
    eager: bool
    host_memory: int | None = None
    """Bytes of the host that are this engine's share; None where it has no neighbours."""
    config_source: str | None = None
    config_labels: Mapping[str, str] = field(default_factory=dict)
    """For each model the label of the one whose config it runs with alone."""
    config_label: str | None = None
    """The model whose config this process runs with; None is the merge's."""
    threads: int | None = None
    """CPU threads to compute with; None leaves them as the environment sets them."""
    generation_ends: bool = True
    """Whether end tokens of generation_config.json end answers."""
    extension: str = EXTENSION
    environment: Mapping[str, str] = field(default_factory=dict)
