"""The settings that are sent to the vLLM process after it has started."""

from collections.abc import Mapping
from dataclasses import dataclass, field

EXTENSION = "objectives.engines.vllm.extension.MergeExtension"
MEMORY_LOGGER = "objectives.engines.memory"
"""The name of the logger that reports the memory requirements."""


@dataclass(frozen=True)
class Settings:
    """Plain data, because it is sent to another process."""

    folders: Mapping[str, str]
    reference: str
    tokenizer_source: str
    has_base: bool
    method: str
    device: str
    """`cpu` or `cuda`; CUDA_VISIBLE_DEVICES selects the GPU."""
    dtype: str
    longest: int
    """The maximum number of tokens of a prompt and its answer."""
    batch_tokens: int
    """The maximum number of tokens in a step."""
    sequences: int
    """The maximum number of prompts in a step."""
    residence: str
    """Where the sources reside: `auto`, `gpu`, `pinned` or `file`."""
    tensor_parallel_size: int
    eager: bool
    host_memory: int | None = None
    """Host memory in bytes that this engine may use; None if no other engine shares the host."""
    config_source: str | None = None
    config_labels: Mapping[str, str] = field(default_factory=dict)
    """For each source that needs a config other than the merge's when evaluated alone: the label of
    the source whose config it uses."""
    config_label: str | None = None
    """The label of the source whose config this process uses; None for the config of merges."""
    max_hops: int | None = None
    """The layers of the longest path; None if the engine merges weights."""
    threads: int | None = None
    """The number of CPU threads; None for the environment's setting."""
    generation_ends: bool = True
    """Whether the end tokens of generation_config.json end answers."""
    extension: str = EXTENSION
    """The class that vLLM mixes into its worker, as a module path."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the process."""
