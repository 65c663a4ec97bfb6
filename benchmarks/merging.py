"""Merges of real size, apart from any study: four Mistral-7B shapes on a GPU.

    python -m benchmarks.merging FOLDER PART [--layers 32]

`rates` is what the device can do, `kernel` the kernels by the device's own clock, one tensor over
and over, `merge` whole merges with sources on the GPU, `places` with them in files and page-locked,
`mergekit` its arithmetic on the same resident tensors, `yaml` mergekit-yaml from the folder.
trial.py runs each in a process of its own.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.real_size import NAMES, make


def timed(work: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the median run, the device's work included."""
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rates() -> None:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    print(torch.cuda.get_device_name())
    for repeat, how in ((3, "a short while"), (60, "for seconds, as a trial scores")):
        seconds = timed(lambda: [a @ b for _ in range(50)], repeat)
        rate = 50 * 2 * 8192**3 / seconds / 1e12
        print(f"matmul of 8192^3 in bf16, {how}: {rate:.0f} TFLOP/s")
    big = torch.randn(2 << 30, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(big)
    seconds = timed(lambda: [other.copy_(big) for _ in range(10)])
    print(f"copy on the device, read and written: {20 * big.nbytes / seconds / 1e12:.2f} TB/s")
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    seconds = timed(lambda: [target.copy_(host, non_blocking=True) for _ in range(5)])
    print(f"page-locked host to device: {5 * host.nbytes / seconds / 1e9:.1f} GB/s", flush=True)


def kernel() -> None:
    from triton.testing import do_bench

    from objectives.merge import kernels
    from objectives.merge.catalogue import METHODS

    def normal(spread: float) -> torch.Tensor:
        return spread * torch.randn(14336, 4096, device="cuda", dtype=torch.bfloat16)

    base = normal(0.02)
    models, out = [base + normal(0.002) for _ in range(3)], torch.empty_like(base)
    numbers = torch.tensor([0.5, 0.7, 0.9, 1.9, 1.5, 1.2, 0.0, 0.0, 0.0, 1.0, 1.0], device="cuda")
    draws = torch.tensor([1, 2, 3, 30_000, 40_000, 50_000], device="cuda")
    shares = torch.rand(8, device="cuda")
    moved = (2 + len(models)) * out.nbytes
    half = torch.empty(moved // 4, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(half)
    copy = do_bench(lambda: other.copy_(half), rep=500, return_mode="median")
    print(f"copy of {moved / 1e9:.2f} GB, read and written: {moved / copy / 1e9:.2f} TB/s")
    for method in ("dare_ties", "dare_linear", "task_arithmetic"):
        rules = METHODS[method]
        given = {"drop": rules.drops, "trim": False, "elect": rules.elects}
        given["normalize"] = rules.elects
        spent = do_bench(
            lambda given=given: kernels.mix(out, base, models, numbers, draws, shares, **given),
            rep=500,
            return_mode="median",
        )
        rate = f"{moved / spent / 1e9:.2f} TB/s, {copy / spent:.0%} of the copy"
        print(f"kernel {method}: {spent:.3f} ms, {rate}", flush=True)


def merge(folder: Path, layers: int) -> None:
    from objectives.merge.stores import Resident
    from objectives.merge.stream import MergeStream
    from objectives.models.sources import Sources

    sources = Sources({name: folder / name for name in NAMES}, "base")
    began = time.perf_counter()
    stream = MergeStream(sources, Resident(sources, torch.device("cuda")))
    torch.cuda.synchronize()
    print(f"sources onto the device: {time.perf_counter() - began:.1f} s")
    for method in ("dare_ties", "dare_linear", "task_arithmetic", "ties"):
        recipe = random_recipe(method, layers)
        began = time.perf_counter()
        _drain(stream, recipe)
        first = time.perf_counter() - began
        seconds = timed(lambda r=recipe: _drain(stream, r), 3 if method == "ties" else 7)
        moved = 5 * sum(t.nbytes for _, t in stream.tensors(recipe))
        print(
            f"merge {method}: {seconds:.4f} s, {moved / seconds / 1e12:.2f} TB/s read and "
            f"written; the first {first:.2f} s",
            flush=True,
        )


def places(folder: Path, layers: int) -> None:
    from objectives.merge.stores import Streamed, size
    from objectives.merge.stream import MergeStream
    from objectives.models.sources import Sources

    sources = Sources({name: folder / name for name in NAMES}, "base")
    total = sum(size(sources, name) for name in NAMES)
    for pinned in (False, True):
        began = time.perf_counter()
        store = Streamed(sources, torch.device("cuda"), pinned=pinned)
        opened = time.perf_counter() - began
        stream, recipe = MergeStream(sources, store), random_recipe("dare_ties", layers)
        _drain(stream, recipe)
        seconds = timed(lambda s=stream, r=recipe: _drain(s, r))
        print(
            f"merge, sources {'page-locked' if pinned else 'in files'}: {seconds:.3f} s, "
            f"{total / seconds / 1e9:.1f} GB/s; opened in {opened:.0f} s",
            flush=True,
        )
        store.close()


def _drain(stream: Any, recipe: Any) -> None:
    for _ in stream.tensors(recipe):
        pass
    torch.cuda.synchronize()


def random_recipe(method: str, layers: int) -> Any:
    from objectives.merge.catalogue import METHODS
    from objectives.merge.recipe import MergeRecipe

    rng = random.Random(1)
    values = {
        p.name: tuple(tuple((rng.uniform(0.4, 1.0),) for _ in range(3)) for _ in range(8))
        for p in METHODS[method].parameters
    }
    return MergeRecipe(method, ("x", "y", "z"), "base", layers, values, normalize=True)


def mergekit(folder: Path, layers: int) -> None:
    """mergekit's arithmetic in bfloat16 on the device, tensor after tensor."""
    from mergekit.merge_methods import merge_tensors

    from objectives.models.sources import Sources

    sources = Sources({name: folder / name for name in NAMES}, "base")
    tensors = [[sources.read(name, info).to("cuda") for name in NAMES] for info in sources.layout]
    parameters = {"weight": [0.5, 0.7, 0.9], "density": [0.5, 0.7, 0.9], "normalize": True}

    def whole() -> None:
        for several in tensors:
            merge_tensors(several, "dare_ties", parameters=parameters, base_index=0)

    whole()
    print(f"mergekit dare_ties on resident tensors: {timed(whole, 3):.3f} s", flush=True)


def mergekit_yaml(folder: Path, layers: int) -> None:
    from objectives.merge.mergekit_yaml import to_mergekit

    references = {name: str(folder / name) for name in NAMES}
    (folder / "merge.yml").write_text(
        yaml.safe_dump(to_mergekit(random_recipe("dare_ties", layers), references, None))
    )
    code = "from mergekit.scripts.run_yaml import main; main()"
    words = [str(folder / "merge.yml"), str(folder / "merged"), "--cuda", "--no-copy-tokenizer"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    print(f"mergekit-yaml --cuda from the folder: {time.perf_counter() - began:.1f} s", flush=True)


WITHOUT_MODELS = ("rates", "kernel")
PARTS: dict[str, Callable[[Path, int], None]] = {
    "rates": lambda *_: rates(),
    "kernel": lambda *_: kernel(),
    "merge": merge,
    "places": places,
    "mergekit": mergekit,
    "yaml": mergekit_yaml,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--layers", type=int, default=32)
    given = parser.parse_args()
    if given.part not in WITHOUT_MODELS:
        make(given.folder, given.layers)
    PARTS[given.part](given.folder, given.layers)


if __name__ == "__main__":
    main()
