"""What an engine and its sources take of a device, from headers alone, and where sources fit.

All sizes are bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from objectives.errors import EngineError
from objectives.merge.mergekit_methods import work_bytes
from objectives.merge.stores import largest, size
from objectives.models.sources import Sources

GB = 1e9
PLACES = ("gpu", "pinned", "file")
_CONTEXT = 1_500_000_000
"""CUDA's context, its libraries' workspaces, vLLM's own buffers."""
_ROWS = 64
"""vLLM pads a vocabulary to a multiple of these."""
_NUMBERS = (
    *("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim"),
    *("hidden_size", "intermediate_size", "vocab_size"),
)
_SLACK = 0.02
"""Share of the device's memory that stays free."""


@dataclass(frozen=True)
class Sizes:
    """What each part takes of one GPU."""

    model: int
    kv_cache: int
    activations: int
    sources: Mapping[str, int]
    """By label."""
    buffers: int
    """Of one set for streaming: the largest tensor of every model."""
    merged: int
    """The largest merged tensor: one is made while the one before is loaded."""
    work: int = 0
    """What mergekit's arithmetic takes for that tensor, where a method's is mergekit's."""
    gpus: int = 1
    """That share the model: `model` and `kv_cache` are what each of them holds."""

    def on_device(self, place: str) -> int:
        """What all that is on the device takes, with the sources in this place."""
        sources = sum(self.sources.values()) if place == "gpu" else 2 * self.buffers
        return sum(
            (
                *(self.model, self.kv_cache, self.activations, sources),
                *(2 * self.merged, self.work, _CONTEXT),
            )
        )

    def on_host(self, place: str) -> int:
        """Page-locked memory of the host, of all GPUs that share the model."""
        each = {"gpu": 0, "pinned": sum(self.sources.values()), "file": 2 * self.buffers}
        return self.gpus * each[place]

    def table(self, device: int, host: int) -> str:
        """Everything in lines, for a device and a host with so much."""
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
        lines = [f"  {name:<28} {bytes_ / GB:6.2f} GB" for name, bytes_ in rows]
        for place in PLACES:
            need, locked = self.on_device(place), self.on_host(place)
            lines.append(
                f"  sources {place:<20} {need / GB:6.2f} of {device / GB:.2f} GB on the device, "
                f"{locked / GB:.2f} of {host / GB:.2f} GB of the host"
            )
        return "\n".join(lines)

    def place(self, wanted: str, device: int, host: int) -> str:
        """The first of gpu, pinned and file that fits, or the one wanted. Raises EngineError."""
        room, spare = device * (1 - _SLACK), max(0.0, host * (1 - _SLACK) - GB)
        for place in PLACES if wanted == "auto" else (wanted,):
            if self.on_device(place) <= room and self.on_host(place) <= spare:
                return place
        raise EngineError(
            f"engine.sources: {wanted}: the study does not fit this device; what takes how much:\n"
            + self.table(device, host)
        )


def sizes(
    sources: Sources,
    dtype: str,
    batch_tokens: int,
    sequences: int,
    kv_tokens: int,
    gpus: int = 1,
    method: str = "linear",
) -> Sizes:
    """For an engine that computes in `dtype`, in steps of up to `batch_tokens` tokens, on `gpus`
    that share the model; each of them merges whole tensors from sources of its own.
    """
    config, itemsize = numbers(sources), getattr(torch, dtype).itemsize
    elements = {info.name: math.prod(info.shape) for info in sources.layout}
    return Sizes(
        model=sum(elements.values()) * itemsize // gpus,
        kv_cache=kv_tokens * kv_bytes_per_token(config, itemsize) // gpus,
        activations=_activations(config, itemsize, batch_tokens, sequences),
        sources={label: size(sources, label) for label in sources.checkpoints},
        buffers=sum(largest(sources, label) for label in sources.checkpoints),
        merged=max(elements.values()) * itemsize,
        work=work_bytes(method, len(sources.checkpoints), max(elements.values())),
        gpus=gpus,
    )


def numbers(sources: Sources) -> dict[str, Any]:
    """The numbers of a merge's config, with the defaults that its config.json leaves out."""
    config = sources.parsed_config("float32")
    values = {key: getattr(config, key, None) for key in _NUMBERS}
    if values["intermediate_size"] is None and values["hidden_size"] is not None:
        values["intermediate_size"] = 4 * values["hidden_size"]
    return {key: value for key, value in values.items() if value is not None}


def kv_bytes_per_token(config: Mapping[str, Any], itemsize: int) -> int:
    """Keys and values of one token in every layer."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    kept = config.get("num_key_value_heads") or heads
    return int(2 * config["num_hidden_layers"] * kept * width * itemsize)


def indivisible(config: Mapping[str, Any], gpus: int) -> str | None:
    """What of a model so many GPUs cannot share evenly, in words; vLLM's tensor parallelism."""
    if gpus == 1:
        return None
    heads, inside = config["num_attention_heads"], config["intermediate_size"]
    kept = config.get("num_key_value_heads") or heads
    rows = math.ceil(config["vocab_size"] / _ROWS) * _ROWS
    shared = {
        f"{heads} attention heads": heads % gpus,
        f"{kept} key-value heads": kept % gpus if kept >= gpus else gpus % kept,  # else repeated
        f"intermediate size {inside}": inside % gpus,
        f"{rows} rows of the vocabulary": rows % gpus,
    }
    return next((what for what, rest in shared.items() if rest), None)


def kv_tokens_for(batch_tokens: int, longest: int) -> int:
    """Tokens the cache should hold: two steps' worth, the shared prompts, and some to spare."""
    return 2 * batch_tokens + 8 * longest


def groups_within(capacity: int, tokens: Mapping[int, int]) -> Iterator[list[int]]:
    """The keys of `tokens`, in order, in groups of so many tokens at most; one that alone has
    more is a group of its own.
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
    """The residual stream and its norms, the wider of attention and gated feed-forward inside a
    layer, and logits in float32 with their log-softmax and a copy.
    """
    inside = 3 * config["hidden_size"] + 3 * config["intermediate_size"]
    return int(tokens * inside * itemsize + 3 * sequences * config["vocab_size"] * 4)
