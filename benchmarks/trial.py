"""A trial of real size on a GPU: four random Mistral-7B-shaped models, 2,250 questions.

    python -m benchmarks.trial FOLDER [--layers 32] [--parts PART ...]
                               [--seconds 150] [--questions 1.0] [--workers 1]
                               [--engine KEY=VALUE ...]

The models go to FOLDER (58 GB; a folder in memory shows what a warm page cache gives), the
questions too. The part `study` runs python -m study.run there, as anyone would, and reads its
trials, which are asked all questions unless --questions says which share, with --workers on a GPU
each; `demo` is a study of 1000 trials with the demo's models; the others are merging.py's.
Nothing may outlive it on the GPU: do not run it under `timeout`.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import merging
from benchmarks.merging import PARTS as MERGING
from benchmarks.merging import WITHOUT_MODELS
from benchmarks.real_size import (
    CHOICE,
    CHOICE_OWN,
    CHOICE_SHARED,
    NAMES,
    RETRIEVAL,
    RETRIEVAL_OWN,
    RETRIEVAL_SHARED,
    ROWS,
    make,
)

PARTS = (*MERGING, "study", "demo")
MERGING_FILE = Path(merging.__file__)
ROOT = Path(__file__).resolve().parent.parent


def study_dict(layers: int, engine: dict[str, Any], questions: float = 1.0) -> dict[str, Any]:
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
        "search": {"questions": questions},
        "engine": engine,
    }


def study(
    folder: Path,
    layers: int,
    seconds: float,
    engine: dict[str, Any],
    questions: float,
    workers: int,
) -> None:
    """A study of the product's own, and what its trials took."""
    told = [("asked", questions), ("workers", workers), *engine.items()]
    name = "-".join(str(v) for pair in told for v in pair)
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(study_dict(layers, engine, questions)))
    url = f"sqlite:///{folder}/{name}.db"
    Path(folder, f"{name}.db").unlink(missing_ok=True)
    began = time.time()
    with (folder / f"{name}.log").open("w") as log:
        words = ["study.run", str(config), "--storage", url, "--timeout", str(seconds)]
        words += ["--workers", str(workers)] if workers > 1 else []
        subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, stdout=log, stderr=log, check=False
        )
    print(f"study {name}: {time.time() - began:.0f} s in all", flush=True)
    print((folder / f"{name}.log").read_text()[-3000:], flush=True)
    summarise(url, layers, began, questions, workers)


def summarise(url: str, layers: int, began: float, questions: float, workers: int) -> None:
    from storage.database.database import open_storage
    from storage.studies import find_study
    from storage.trials import Trials

    database = open_storage(url, create=False)
    found = find_study(database, "trial")
    trials = [t for t in found.get_trials() if t.value is not None]
    records = [r for r in Trials(database, found).all() if r.complete]
    ends = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
    if ends:
        print(f"the first score after {ends[0] - began:.0f} s")
    if len(records) < 7:  # base, parents, a first merge, and one that has nothing to prepare
        print(f"only {len(records)} trials")
        return
    parts = {
        part: statistics.median(r.seconds[part] for r in records[5:])  # those are merges
        for part in ("ask", "merge", "score")
    }
    each = statistics.median(b - a for a, b in zip(ends[5:], ends[5 + workers :], strict=False))
    rest = each - parts["merge"] - parts["score"]
    flops = 2 * tokens_of_a_trial() * weights_of(layers) if questions == 1 else math.nan
    sources = len(NAMES) * 2 * (weights_of(layers) + 2 * ROWS * 4096)
    print(
        "| trials | s a trial | merge + load | sources' GB/s | score | rest | TFLOP/s |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {len(records)} | {each / workers:.2f} | {parts['merge']:.3f} | "
        f"{sources / parts['merge'] / 1e9:.1f} | {parts['score']:.2f} | "
        f"{rest:.3f} | {flops / parts['score'] / 1e12:.0f} |",
        flush=True,
    )


def demo(folder: Path, seconds: float) -> None:
    """1000 trials of the demo's models; the best merge asked all search questions, live and from
    its exported folder."""
    from objectives.merge.recipe import MergeRecipe
    from objectives.models.sources import Sources
    from storage.database.database import open_storage
    from storage.studies import find_study
    from storage.trials import Trials
    from study.config.load import load_config
    from study.search.genome import recipe_of
    from study.search.state import best_merge
    from study.setup.engine import choose_engine
    from study.setup.setup import build

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
    alone = MergeRecipe.single("m", setup.sources.num_layers)
    for what, sources, recipe, kind in (
        ("it, live", setup.sources, recipe_of(best, setup.genome), "vllm"),
        ("its folder", exported, alone, "vllm"),
        ("its folder", exported, alone, "transformers"),
    ):
        engine = choose_engine(setup.config, kind).start(sources, setup.longest)
        engine.load(recipe)
        print(f"{what} through {kind}: {setup.search.evaluate(engine).value}", flush=True)
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
    parser.add_argument("--questions", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", nargs="*", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    engine = {k: yaml.safe_load(v) for k, v in (word.split("=") for word in given.engine)}
    given.folder.mkdir(parents=True, exist_ok=True)
    if set(given.parts) - {*WITHOUT_MODELS, "demo"}:
        make(given.folder, given.layers)
    for part in given.parts:
        if part == "study":
            asked = (given.seconds, engine, given.questions, given.workers)
            study(given.folder, given.layers, *asked)
        elif part == "demo":
            demo(given.folder, given.seconds)
        else:  # in a process of its own, which gives the device's memory back
            words = [str(given.folder), part, "--layers", str(given.layers)]
            subprocess.run([sys.executable, MERGING_FILE, *words], check=False)


if __name__ == "__main__":
    main()
