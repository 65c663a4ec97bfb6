"""A trial of real size on a GPU: four random Mistral-7B-shaped models, 2,250 questions.

    python benchmarks/trial.py FOLDER [--layers 32] [--parts rates merge mergekit yaml study demo]
                               [--seconds 150] [--engine KEY=VALUE ...]

The models go to FOLDER (58 GB; a folder in memory shows what a warm page cache gives), the
questions too. `study` runs python -m study.run there, as anyone would, and reads its trials;
`merge` times the kernels alone, `mergekit` mergekit's arithmetic on the same resident tensors,
`yaml` mergekit-yaml from the folder, `rates` what the device can do. `demo` is a study of 1000
trials with the demo's models. Nothing may outlive it on the GPU: do not run it under `timeout`.
"""

import argparse
import itertools
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
from real_size import (
    CHOICE,
    CHOICE_OWN,
    CHOICE_SHARED,
    NAMES,
    RETRIEVAL,
    RETRIEVAL_OWN,
    RETRIEVAL_SHARED,
    make,
)

PARTS = ("rates", "merge", "mergekit", "yaml", "study", "demo")
ROOT = Path(__file__).resolve().parent.parent


def study_dict(layers: int, engine: dict[str, Any]) -> dict[str, Any]:
    return {
        "genome": {
            "models": ["x", "y", "z"],
            "base_model": "base",
            "merge_method": "dare_ties",
            "layer_granularity": layers // 8,
        },
        "tasks": [
            {
                "name": "choice",
                "weight": 0.875,
                "kind": "multiple_choice",
                "data": "choice.jsonl",
                "prompt": "choice.yaml",
            },
            {
                "name": "retrieval",
                "weight": 0.125,
                "kind": "retrieval",
                "data": "retrieval.jsonl",
                "prompt": "retrieval.yaml",
            },
        ],
        "study": {"name": "trial", "held_out": 0},
        "engine": engine,
    }


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
    seconds = timed(lambda: [a @ b for _ in range(50)])
    print(f"matmul of 8192^3 in bf16: {50 * 2 * 8192**3 / seconds / 1e12:.0f} TFLOP/s")
    big = torch.randn(2 << 30, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(big)
    seconds = timed(lambda: [other.copy_(big) for _ in range(10)])
    print(f"copy on the device, read and written: {20 * big.nbytes / seconds / 1e12:.2f} TB/s")
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    seconds = timed(lambda: [target.copy_(host, non_blocking=True) for _ in range(5)])
    print(f"page-locked host to device: {5 * host.nbytes / seconds / 1e9:.1f} GB/s", flush=True)


def merge(folder: Path, layers: int) -> None:
    from objectives.merge.recipe import MergeRecipe
    from objectives.merge.sources import Sources
    from objectives.merge.stores import Resident
    from objectives.merge.stream import MergeStream

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
    assert isinstance(recipe, MergeRecipe)


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

    from objectives.merge.sources import Sources

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


def study(folder: Path, layers: int, seconds: float, engine: dict[str, Any]) -> None:
    """A study of the product's own, and what its trials took."""
    name = "-".join(str(v) for pair in engine.items() for v in pair) or "default"
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(study_dict(layers, engine)))
    url = f"sqlite:///{folder}/{name}.db"
    Path(folder, f"{name}.db").unlink(missing_ok=True)
    began = time.time()
    with (folder / f"{name}.log").open("w") as log:
        words = ["study.run", str(config), "--storage", url, "--timeout", str(seconds)]
        subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, stdout=log, stderr=log, check=False
        )
    print(f"study {name}: {time.time() - began:.0f} s in all", flush=True)
    print((folder / f"{name}.log").read_text()[-3000:], flush=True)
    summarise(url, layers, began)


def summarise(url: str, layers: int, began: float) -> None:
    from storage.database import open_storage
    from storage.studies import find_study
    from storage.trials import Trials

    database = open_storage(url, create=False)
    found = find_study(database, "trial")
    trials = [t for t in found.get_trials() if t.value is not None]
    records = [r for r in Trials(database, found).all() if r.complete]
    if len(records) < 6:
        print(f"only {len(records)} trials")
        return
    parts = {
        part: statistics.median(r.seconds[part] for r in records[4:])  # those are merges
        for part in ("ask", "merge", "score")
    }
    ends = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
    period = statistics.median(b - a for a, b in itertools.pairwise(ends[4:]))
    rest = period - parts["merge"] - parts["score"]
    flops = 2 * tokens_of_a_trial() * weights_of(layers)
    print(
        "| trials | s a trial | merge + load | score | rest | TFLOP/s | s to the first score |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {len(records)} | {period:.2f} | {parts['merge']:.3f} | {parts['score']:.2f} | "
        f"{rest:.3f} | {flops / parts['score'] / 1e12:.0f} | {ends[0] - began:.0f} |",
        flush=True,
    )


def demo(folder: Path, seconds: float) -> None:
    """1000 trials of the demo's models, and the best merge's folder scored by both engines."""
    from objectives.merge.recipe import MergeRecipe
    from objectives.merge.sources import Sources
    from storage.database import open_storage
    from storage.studies import find_study
    from storage.trials import Trials, best_merge
    from study.config_file import load_config
    from study.engine_choice import choose_engine
    from study.setup import build

    config, url = ROOT / "examples" / "demo" / "study.yaml", f"sqlite:///{folder}/demo.db"
    words = ["--storage", url, "--trials", "1000", "--timeout", str(seconds)]
    subprocess.run(
        [sys.executable, "-m", "study.run", str(config), *words], cwd=folder, check=False
    )
    setup = build(load_config(config), check_values=False)
    database = open_storage(url, create=False)
    records = Trials(database, find_study(database, "demo")).all()
    best = best_merge(records)
    search = [r for r in records if r.complete and r.kind == "search"]
    if best is None or len(search) < 2:
        print("no trials")
        return
    parts = ("ask", "merge", "score")
    medians = {part: statistics.median(r.seconds[part] for r in search) for part in parts}
    print(f"demo: {len(search)} trials, seconds {medians}, best {best.number}: {best.value}")
    out = folder / "best"
    words = ["--storage", url, "--trial", str(best.number), "--out", str(out), "--overwrite"]
    subprocess.run(
        [sys.executable, "-m", "study.export", str(config), *words], cwd=ROOT, check=True
    )
    exported = Sources({"m": out}, "m")
    for kind in ("vllm", "transformers"):
        engine = choose_engine(setup.config, kind).start(exported, setup.longest)
        engine.load(MergeRecipe.single("m", setup.sources.num_layers))
        print(f"its folder through {kind}: {setup.search.ask(engine).value}", flush=True)
        engine.close()


def tokens_of_a_trial() -> float:
    """Tokens that are computed: own ones, each shared start once, and the decoded ones but one."""
    return (
        CHOICE * sum(CHOICE_OWN) / 2
        + RETRIEVAL * (sum(RETRIEVAL_OWN) / 2 + 6)
        + CHOICE_SHARED
        + RETRIEVAL_SHARED
    )


def weights_of(layers: int) -> float:
    """Weights that each token is multiplied with: those of the layers."""
    return layers * (4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14336)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--engine", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--alone", action="store_true", help="a part in a process of its own")
    given = parser.parse_args()
    engine = {k: yaml.safe_load(v) for k, v in (word.split("=") for word in given.engine)}
    if given.alone:
        [part] = given.parts
        {"rates": lambda *_: rates(), "merge": merge, "mergekit": mergekit, "yaml": mergekit_yaml}[
            part
        ](given.folder, given.layers)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if set(given.parts) - {"rates", "demo"}:
        make(given.folder, given.layers)
    for part in given.parts:
        if part == "study":
            study(given.folder, given.layers, given.seconds, engine)
        elif part == "demo":
            demo(given.folder, given.seconds)
        else:  # in a process of its own, which gives the device's memory back
            words = [str(given.folder), "--layers", str(given.layers), "--parts", part, "--alone"]
            subprocess.run([sys.executable, __file__, *words], check=False)


if __name__ == "__main__":
    main()
