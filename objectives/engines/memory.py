"""Estimate the memory of an engine and its sources from file headers; choose where sources reside.

All sizes are in bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from objectives.errors import EngineError
from objectives.files.units import size_text
from objectives.merge.mergekit_methods import work_bytes
from objectives.merge.stores import largest, size
from objectives.models.sources import Sources

GB = 1e9
RESIDENCES = ("gpu", "pinned", "file")
"""Where sources can reside during a study: GPU memory, page-locked host memory, or their files."""
_CONTEXT = 1_500_000_000
"""CUDA's context, its libraries' workspaces, and vLLM's own buffers."""
_VOCABULARY_MULTIPLE = 64
"""vLLM pads a vocabulary to a multiple of this number."""
_CONFIG_KEYS = (
    *("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim"),
    *("hidden_size", "intermediate_size", "vocab_size"),
)
ROW_TOKENS = 1 << 15
"""The maximum number of tokens of a packed row of a gradient step."""
_SLACK = 0.02
"""The fraction of the device's memory that stays free."""


@dataclass(frozen=True)
class Sizes:
    """The memory that each part needs on one GPU."""

    model: int
    kv_cache: int
    activations: int
    sources: Mapping[str, int]
    """The size of each source, by its label."""
    buffers: int
    """One set of buffers for streaming: the largest tensor of every source."""
    merged: int
    """The largest merged tensor. Two are allocated: one is loaded while the next is computed."""
    work: int = 0
    """The workspace of mergekit's arithmetic for that tensor; 0 for the project's own methods."""
    gpus: int = 1
    """The number of GPUs that share the model; `model` and `kv_cache` are the parts of each."""

    def on_device(self, residence: str) -> int:
        """Return the memory that is needed on each GPU with this residence of the sources."""
        sources = sum(self.sources.values()) if residence == "gpu" else 2 * self.buffers
        return sum(
            (
                *(self.model, self.kv_cache, self.activations, sources),
                *(2 * self.merged, self.work, _CONTEXT),
            )
        )

    def on_host(self, residence: str) -> int:
        """Return the page-locked host memory that all GPUs need with this residence."""
        each = {"gpu": 0, "pinned": sum(self.sources.values()), "file": 2 * self.buffers}
        return self.gpus * each[residence]

    def table(self, device: int, host: int) -> str:
        """Return all sizes as lines of text, beside the memory of the device and of the host."""
        rows = [
            ("model", self.model),
            ("KV cache", self.kv_cache),
            ("activations", self.activations),
            *((f"source {label}", bytes_) for label, bytes_ in self.sources.items()),
            ("buffers of streamed sources", 2 * self.buffers),
            ("merged tensors in flight", 2 * self.merged),
            *([("mergekit's arithmetic", self.work)] if self.work else []),
            ("CUDA and vLLM", _CONTEXT),
        ]
        lines = [f"  {name:<28} {size_text(bytes_):>10}" for name, bytes_ in rows]
        for residence in RESIDENCES:
            need, locked = self.on_device(residence), self.on_host(residence)
            on_device = f"{size_text(need):>10} of {size_text(device)} on the device"
            on_host = f"{size_text(locked)} of {size_text(host)} on the host"
            lines.append(f"  sources {residence:<20} {on_device}, {on_host}")
        return "\n".join(lines)

    def choose_residence(self, requested: str, device: int, host: int) -> str:
        """Return the first residence that fits for `auto`, or the requested one if it fits.

        `device` and `host` are the available memory. Raises EngineError if none fits.
        """
        on_device, on_host = device * (1 - _SLACK), max(0.0, host * (1 - _SLACK) - GB)
        for residence in RESIDENCES if requested == "auto" else (requested,):
            if self.on_device(residence) <= on_device and self.on_host(residence) <= on_host:
                return residence
        raise EngineError(
            f"engine.sources: {requested}: the study does not fit on this device; memory "
            f"requirements:\n{self.table(device, host)}"
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

    It computes in `dtype`, in steps of at most `batch_tokens` tokens and `sequences` prompts. Each
    GPU merges whole tensors from its own copy of the sources. The model has `max_hops` layers if
    it is not None.
    """
    config, itemsize = numbers(sources), getattr(torch, dtype).itemsize
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


def sizes_of_gradient(
    sources: Sources, dtype: str, tokens: int, sequences: int, method: str
) -> Sizes:
    """Return the memory of a gradient step whose longest packed row has `tokens` tokens.

    Activations are the inputs of all layers, and those of one layer with their gradients. For
    three 7B models, a base and 17,280 tokens the estimated total is 83 GB; 81.6 GB were allocated
    (benchmarks/results/gradient.md, 2026-11-26).
    """
    plain = sizes(sources, dtype, tokens, sequences, 0, method=method)
    config, itemsize = numbers(sources), getattr(torch, dtype).itemsize
    inputs = config["num_hidden_layers"] * tokens * config["hidden_size"] * itemsize
    return replace(plain, activations=2 * plain.activations + inputs)


def numbers(sources: Sources) -> dict[str, Any]:
    """Return the sizes in a merge's config, including defaults that config.json omits."""
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


def indivisible(config: Mapping[str, Any], gpus: int) -> str | None:
    """Return a description of a dimension that vLLM cannot divide evenly among so many GPUs.

    Returns None if tensor parallelism is possible.
    """
    if gpus == 1:
        return None
    heads, intermediate = config["num_attention_heads"], config["intermediate_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    rows = math.ceil(config["vocab_size"] / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    remainders = {
        f"{heads} attention heads": heads % gpus,
        # fewer heads than GPUs are replicated
        f"{kv_heads} key-value heads": kv_heads % gpus if kv_heads >= gpus else gpus % kv_heads,
        f"intermediate size {intermediate}": intermediate % gpus,
        f"{rows} rows of the vocabulary": rows % gpus,
    }
    return next((dimension for dimension, remainder in remainders.items() if remainder), None)


def kv_tokens_for(batch_tokens: int, longest: int) -> int:
    """Return the capacity of the KV cache in tokens: two steps, the shared prefixes, and slack."""
    return 2 * batch_tokens + 8 * longest


def groups_within(capacity: int, tokens: Mapping[int, int]) -> Iterator[list[int]]:
    """Split the keys of `tokens`, in order, into groups of at most `capacity` tokens.

    A key that has more tokens than that is a group of its own.
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

    Per token: the residual stream, its norms, and the gated feed-forward part of a layer, which is
    wider than attention. Per sequence: float32 logits, their log-softmax, and a copy.
    """
    width = 3 * config["hidden_size"] + 3 * config["intermediate_size"]
    return int(tokens * width * itemsize + 3 * sequences * config["vocab_size"] * 4)
