"""What the process that runs vLLM is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

EXTENSION = "objectives.engines.vllm_worker.MergeExtension"


SIZES = "objectives.engines.sizes"
"""The logger that tells what takes how much."""


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
    extension: str = EXTENSION
    environment: Mapping[str, str] = field(default_factory=dict)
