"""Where the seconds of scoring go: the standard load through vLLM, by step size and by kernel.

    python -m benchmarks.scoring FOLDER [--layers 32] [--steps 32768 16384 8192 4096]
                                 [--engine KEY=VALUE ...] [--profile]

Runs vLLM in this process as the worker runs it in its own, with the models and questions of
trial.py in FOLDER, and asks all questions once for every step size; the matrix products of the
model's layers alone, at the same number of tokens, say what the device could do.
"""

import argparse
import collections
import os
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.merging import random_recipe, timed
from benchmarks.real_size import make
from benchmarks.trial import study_dict, tokens_of_a_trial, weights_of

PARTS = {  # of kernels' names
    "attention": ("flash", "fmha", "attn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "sm90_xmma"),
    "activation": ("act_and_mul", "silu"),
    "norms": ("rms_norm", "layernorm"),
    "rotary": ("rotary",),
    "KV cache": ("reshape_and_cache",),
}


class InProcess:
    """vLLM in this process, asked as the product's process is."""

    def __init__(self, host: Any) -> None:
        self._host, self._numbers = host, {}

    def answer(self, prompts: Any) -> Any:
        new = [p for p in prompts if id(p) not in self._numbers]
        for prompt in new:
            self._numbers[id(prompt)] = len(self._numbers)
        return self._host.answer([self._numbers[id(p)] for p in prompts], new)


def products(layers: int, tokens: int) -> float:
    """Seconds that a layer's four matrix products take for so many tokens, times the layers."""
    shapes = [(4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096)]
    pairs = [
        (
            torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16),
            torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02,
        )
        for k, n in shapes
    ]

    def whole() -> None:
        for _ in range(layers):
            for x, w in pairs:
                torch.nn.functional.linear(x, w)

    return timed(whole, 3)


def profile(ask: Any) -> None:
    """Device seconds by kind of kernel, and how long nothing ran on it."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities) as made:
        ask()
    wall = time.perf_counter() - began
    seconds, names = collections.Counter(), collections.Counter()
    for event in made.key_averages():
        spent = event.self_device_time_total / 1e6
        kind = next(
            (k for k, words in PARTS.items() if any(w in event.key.lower() for w in words)), "other"
        )
        seconds[kind] += spent
        names[event.key[:90]] += spent
    for kind, spent in seconds.most_common():
        print(f"  {kind:<18} {spent:6.3f} s")
    print(f"  nothing runs       {wall - seconds.total():6.3f} s of {wall:.3f}")
    runs = sorted((e.time_range.start, e.time_range.end) for e in made.events() if e.device_type)
    gaps, at = [], runs[0][0]
    for start, end in runs:
        gaps.append((start - at, at - runs[0][0]))
        at = max(at, end)
    print(f"  from the first kernel to the last {(at - runs[0][0]) / 1e6:.3f} s; longest gaps:")
    for gap, when in sorted(gaps, reverse=True)[:8]:
        print(f"    {gap / 1e3:.1f} ms after {when / 1e6:.3f} s")
    for name, spent in names.most_common(14):
        print(f"    {spent:6.3f} {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", nargs="*", type=int, default=[32768, 16384, 8192, 4096])
    parser.add_argument("--engine", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    from objectives.engines.vllm.server import Host
    from study.config.load import load_config
    from study.setup.engine import choose_engine
    from study.setup.setup import build

    make(given.folder, given.layers)
    engine = {k: yaml.safe_load(v) for k, v in (word.split("=") for word in given.engine)}
    engine = {"kind": "vllm", "batch_tokens": max(given.steps), "sources": "file"} | engine
    config = given.folder / "scoring.yaml"
    config.write_text(yaml.safe_dump(study_dict(given.layers, engine)))
    setup = build(load_config(config), check_values=False)
    settings = choose_engine(setup.config).vllm_settings(setup.sources, setup.longest)
    os.environ.update(settings.environment)
    began = time.perf_counter()
    host = Host(settings)
    host.load(random_recipe("dare_ties", given.layers).to_dict())
    print(f"vLLM started, a merge loaded: {time.perf_counter() - began:.0f} s", flush=True)
    core = host._llm.llm_engine.engine_core.engine_core
    live = InProcess(host)

    def ask() -> float:
        host._llm.reset_prefix_cache()
        began = time.perf_counter()
        setup.search.evaluate(live)
        return time.perf_counter() - began

    flops = 2 * tokens_of_a_trial() * weights_of(given.layers)
    print(f"first: {ask():.2f} s", flush=True)
    for step in given.steps:
        core.scheduler.max_num_scheduled_tokens = host._batch_tokens = step
        seconds = min(ask() for _ in range(2))
        print(f"steps of {step}: {seconds:.2f} s, {flops / seconds / 1e12:.0f} TFLOP/s", flush=True)
    if given.profile:
        core.scheduler.max_num_scheduled_tokens = min(16384, max(given.steps))
        profile(ask)
    host.close()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        for step in given.steps:
            each = products(given.layers, step)
            rate = 2 * step * weights_of(given.layers) / each / 1e12
            print(f"matrix products of {step} tokens alone: {rate:.0f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
