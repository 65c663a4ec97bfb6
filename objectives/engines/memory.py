"""Estimate how much memory an engine and its sources need, and choose where the sources reside.

The estimates are computed from file headers and config.json. All sizes are in bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from objectives.errors import EngineError
from objectives.files.units import size_text
from objectives.merge.mergekit_methods import work_bytes
from objectives.merge.path import is_scaled
from objectives.merge.stores import largest, size
from objectives.models.sources import Sources

GB = 1e9
RESIDENCES = ("gpu", "pinned", "file")
"""Where sources can reside during a study: in GPU memory, in page-locked host memory, or in their
files."""
_RUNTIME = 1_500_000_000
"""The size of CUDA's context, of the workspaces of its libraries and of vLLM's own buffers."""
_VOCABULARY_MULTIPLE = 64
"""vLLM pads a vocabulary to a multiple of this number."""
_CONFIG_KEYS = (
    *("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim"),
    *("hidden_size", "intermediate_size", "vocab_size"),
)
"""The keys of a config that `model_dimensions` returns."""
ROW_TOKENS = 1 << 15
"""The maximum number of tokens of a packed row of a gradient step."""
_SLACK = 0.02
"""The fraction of the memory of a device or a host that stays free; on a host another GB does."""


@dataclass(frozen=True)
class Sizes:
    """The memory that an engine needs on each of its GPUs, by purpose."""

    model: int
    kv_cache: int
    activations: int
    sources: Mapping[str, int]
    """The size of each source, by its label."""
    buffers: int
    """One set of buffers for streaming, with room for the largest tensor of every source."""
    merged: int
    """The largest merged tensor. Two are allocated: one is loaded while the next is computed."""
    work: int = 0
    """The workspace of mergekit's arithmetic for the largest tensor; 0 for the project's own
    methods."""
    gpus: int = 1
    """The number of GPUs that share the model. `model` and `kv_cache` are the shares of one GPU."""

    def on_device(self, residence: str) -> int:
        """Return the memory that each GPU needs if the sources are in `residence`."""
        sources = sum(self.sources.values()) if residence == "gpu" else 2 * self.buffers
        return sum(
            (
                *(self.model, self.kv_cache, self.activations, sources),
                *(2 * self.merged, self.work, _RUNTIME),
            )
        )

    def on_host(self, residence: str) -> int:
        """Return the page-locked host memory of all GPUs if the sources are in `residence`."""
        per_gpu = {"gpu": 0, "pinned": sum(self.sources.values()), "file": 2 * self.buffers}
        return self.gpus * per_gpu[residence]

    def table(self, device: int, host: int) -> str:
        """Return the sizes as lines of text: by purpose, then in total for each residence.

        The totals stand beside `device` and `host`, the available memory.
        """
        rows = [
            ("model", self.model),
            ("KV cache", self.kv_cache),
            ("activations", self.activations),
            *((f"source {label}", bytes_) for label, bytes_ in self.sources.items()),
            ("buffers of streamed sources", 2 * self.buffers),
            ("two merged tensors", 2 * self.merged),
            *([("mergekit's arithmetic", self.work)] if self.work else []),
            ("CUDA and vLLM", _RUNTIME),
        ]
        lines = [f"  {name:<28} {size_text(bytes_):>10}" for name, bytes_ in rows]
        for residence in RESIDENCES:
            need, locked = self.on_device(residence), self.on_host(residence)
            on_device = f"{size_text(need):>10} of {size_text(device)} on the device"
            on_host = f"{size_text(locked)} of {size_text(host)} on the host"
            total = f"total, sources: {residence}"
            lines.append(f"  {total:<28} {on_device}, {on_host}")
        return "\n".join(lines)

    def choose_residence(self, requested: str, device: int, host: int) -> str:
        """Return the requested residence if it fits, or the first that fits if `auto` is requested.

        `device` and `host` are the available memory. Raises EngineError if no residence fits.
        """
        on_device, on_host = device * (1 - _SLACK), max(0.0, host * (1 - _SLACK) - GB)
        for residence in RESIDENCES if requested == "auto" else (requested,):
            if self.on_device(residence) <= on_device and self.on_host(residence) <= on_host:
                return residence
        raise EngineError(
            f"engine.sources: {requested}: the study does not fit in the memory of the device and "
            f"the host; it needs:\n{self.table(device, host)}"
        )


def sizes(
    sources: Sources,
    dtype: str,
    batch_tokens: int,
    sequences: int,
    kv_tokens: int,
    gpus: int = 1,
    method: str = "linear",
    max_hops: int | None = None,
) -> Sizes:
    """Return the memory that an engine needs on each of `gpus` GPUs that share the model.

    The engine computes in `dtype`, in steps of at most `batch_tokens` tokens and `sequences`
    prompts. Each GPU merges whole tensors from its own copy of the sources. If `max_hops` is not
    None, the model has this number of layers.
    """
    config, itemsize = model_dimensions(sources), getattr(torch, dtype).itemsize
    elements = {info.name: math.prod(info.shape) for info in sources.layout}
    weights = sum(elements.values())
    if max_hops is not None:
        first = sum(elements[info.name] for info in sources.layout if info.layer == 0)
        weights += (max_hops - sources.num_layers) * first
        config["num_hidden_layers"] = max_hops
    return Sizes(
        model=weights * itemsize // gpus,
        kv_cache=kv_tokens * kv_bytes_per_token(config, itemsize) // gpus,
        activations=_activations(config, itemsize, batch_tokens, sequences),
        sources={label: size(sources, label) for label in sources.checkpoints},
        buffers=sum(largest(sources, label) for label in sources.checkpoints),
        merged=max(elements.values()) * itemsize,
        work=work_bytes(method, len(sources.checkpoints), max(elements.values())),
        gpus=gpus,
    )


def sizes_of_gradient_step(
    sources: Sources, dtype: str, tokens: int, sequences: int, method: str
) -> Sizes:
    """Return the memory of a gradient step whose longest packed row has `tokens` tokens.

    The size of the activations is that of the inputs of all layers, and of the activations of one
    layer with their gradients. For three 7B models, a base and 17,280 tokens the estimated total is
    83 GB; 81.6 GB were allocated (benchmarks/results/gradient.md, 2026-11-26).
    """
    plain = sizes(sources, dtype, tokens, sequences, 0, method=method)
    config, itemsize = model_dimensions(sources), getattr(torch, dtype).itemsize
    inputs = config["num_hidden_layers"] * tokens * config["hidden_size"] * itemsize
    return replace(plain, activations=2 * plain.activations + inputs)


def sizes_of_paths(sources: Sources, dtype: str, batch_tokens: int, max_hops: int) -> Sizes:
    """Return the memory of the engine of paths, which holds all models, and copies of the weights
    that scales change."""
    itemsize = getattr(torch, dtype).itemsize
    plain = sizes(sources, dtype, batch_tokens, batch_tokens, batch_tokens, max_hops=max_hops)
    scaled = sum(math.prod(info.shape) for info in sources.layout if is_scaled(info.name))
    copies = scaled * max_hops // max(1, sources.num_layers)
    weights = sum(math.prod(info.shape) for info in sources.layout)
    model = (len(sources.checkpoints) * weights + copies) * itemsize
    return replace(plain, model=model, sources={}, buffers=0, merged=0)


def model_dimensions(sources: Sources) -> dict[str, Any]:
    """Return the dimensions of the merged model by their names in the config.

    Defaults that config.json omits are included; a key without a value is left out.
    """
    config = sources.parsed_config("float32")
    values = {key: getattr(config, key, None) for key in _CONFIG_KEYS}
    if values["intermediate_size"] is None and values["hidden_size"] is not None:
        values["intermediate_size"] = 4 * values["hidden_size"]
    return {key: value for key, value in values.items() if value is not None}


def kv_bytes_per_token(config: Mapping[str, Any], itemsize: int) -> int:
    """Return the size of one token's keys and values in all layers."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return int(2 * config["num_hidden_layers"] * kv_heads * width * itemsize)


def indivisible_dimension(config: Mapping[str, Any], gpus: int) -> str | None:
    """Return the text of a dimension that vLLM cannot divide evenly among `gpus` GPUs.

    Returns None if vLLM can divide all dimensions.
    """
    if gpus == 1:
        return None
    heads, intermediate = config["num_attention_heads"], config["intermediate_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    rows = math.ceil(config["vocab_size"] / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    remainders = {
        f"{heads} attention heads": heads % gpus,
        # vLLM replicates key-value heads if there are fewer heads than GPUs
        f"{kv_heads} key-value heads": kv_heads % gpus if kv_heads >= gpus else gpus % kv_heads,
        f"intermediate size {intermediate}": intermediate % gpus,
        f"{rows} rows of the vocabulary": rows % gpus,
    }
    return next((dimension for dimension, remainder in remainders.items() if remainder), None)


def kv_tokens_for(batch_tokens: int, longest: int) -> int:
    """Return the capacity of the KV cache in tokens: two steps, and eight of the longest prompts.

    The latter are for the prefixes that prompts share, and a reserve.
    """
    return 2 * batch_tokens + 8 * longest


def groups_within(capacity: int, tokens: Mapping[int, int]) -> Iterator[list[int]]:
    """Split the keys of `tokens`, in order, into groups of at most `capacity` tokens.

    A key with more than `capacity` tokens forms a group by itself.
    """
    group: list[int] = []
    left = capacity
    for key, needed in tokens.items():
        if group and needed > left:
            yield group
            group, left = [], capacity
        group.append(key)
        left -= needed
    if group:
        yield group


def _activations(config: Mapping[str, Any], itemsize: int, tokens: int, sequences: int) -> int:
    """Return the size of the activations of one step.

    For each token these are the residual stream, its norms, and the gated feed-forward part of a
    layer, which is wider than attention. For each sequence they are the float32 logits, their
    log-softmax, and a copy.
    """
    width = 3 * config["hidden_size"] + 3 * config["intermediate_size"]
    return int(tokens * width * itemsize + 3 * sequences * config["vocab_size"] * 4)
