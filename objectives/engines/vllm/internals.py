"""The internals of vLLM that this project uses. No other module refers to them.

vLLM may change them in any release. Versions 0.26 on a GPU and 0.32 on a CPU are tested;
pyproject.toml allows the versions from 0.26 to 0.32. Before allowing another version, run
test_vllm_internals.py, which tests these internals, and test_vllm.py in tests/objectives/engines.

vLLM is imported inside functions, because that takes many seconds.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

WORKER_MODULE = "vllm.v1.worker.gpu_worker"
"""The module of the GPU worker. The CPU worker is derived from it."""


def import_worker() -> None:
    """Import vLLM and the module of its worker, which takes many seconds."""
    from vllm import LLM  # noqa: F401  # vLLM imports the class on first access

    importlib.import_module(WORKER_MODULE)


def keep_weights_as_loaded() -> None:
    """Stop CPU builds from repacking linear layers, whose weights then cannot be loaded again."""
    with contextlib.suppress(ImportError):
        operations: Any = importlib.import_module("vllm._custom_ops")
        operations._supports_onednn = False


def register_loaded_classes(architectures: Sequence[str]) -> None:
    """Register the model classes of a config's `architectures` as imported classes.

    Otherwise vLLM starts another Python process that imports and inspects them.
    """
    from vllm import ModelRegistry

    for name in architectures:
        if (model := ModelRegistry.models.get(name)) is not None:
            ModelRegistry.register_model(name, model.load_model_cls())


def shut_down(llm: Any) -> None:
    """Shut down vLLM's engine and the processes that it has started."""
    llm.llm_engine.engine_core.shutdown()


def block_size(llm: Any) -> int:
    """Return the number of tokens in a block of the KV cache."""
    return int(llm.llm_engine.vllm_config.cache_config.block_size)


def live_model(worker: Any) -> Any:
    """Return the torch module that a worker computes with."""
    return worker.model_runner.get_model()


def clear_kv_cache(worker: Any) -> None:
    """Set the keys and values in a worker's KV cache to zero."""
    caches = list(worker.model_runner.kv_caches)
    while caches:
        cache = caches.pop()
        if isinstance(cache, torch.Tensor):
            cache.zero_()
        else:
            caches.extend(cache)


def checkpoint_names(model: Any) -> Iterator[str]:
    """Yield the names that a model's parameters have in checkpoints, before vLLM packs them.

    vLLM packs several tensors, for example the query, key and value projections, into one.
    """
    packed: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", None) or {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if part in packed), None)
        if index is None:
            yield name
            continue
        for unpacked in packed[parts[index]]:
            yield ".".join([*parts[:index], unpacked, *parts[index + 1 :]])


def first_logprobs(output: Any) -> dict[int, float]:
    """Return the log-probabilities at the first token of an output, by token id.

    `output` is a CompletionOutput whose request has asked for flat log-probabilities.
    """
    flat = output.logprobs
    first = slice(flat.start_indices[0], flat.end_indices[0])
    return dict(zip(flat.token_ids[first], flat.logprobs[first], strict=True))


def all_logprobs(output: Any) -> Sequence[float]:
    """Return all log-probabilities of an output; see `first_logprobs`."""
    logprobs: Sequence[float] = output.logprobs.logprobs
    return logprobs
