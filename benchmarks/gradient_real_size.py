"""Steps by gradient at real size on a GPU: four random Mistral-7B-shaped models, 4,500 questions.

    python -m benchmarks.gradient_real_size FOLDER [--layers 32] [--steps 5] [--only make|steps]

The models go to FOLDER (58 GB; in memory, for a warm page cache), the questions and a study file
`study.yaml` too, half of whose questions are held out: `python -m study.run FOLDER/study.yaml` is
then a whole study. The engine is the one that the study would start. A step is 96 questions.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gradient_search import examples_of
from benchmarks.real_size import make
from benchmarks.trial import study_dict
from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Loss
from objectives.tasks.examples import question_shares
from study.config.load import load_config
from study.search.ascent.batches import Batches
from study.setup.engine import choose_engine
from study.setup.setup import build

FILTERS = {
    "attention, mlp, rest": ["self_attn", "mlp"],
    "a filter for each matrix": [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up")],
}


def write_study(folder: Path, layers: int, name: str) -> Path:
    study = study_dict(layers, {})
    study["genome"] |= {"layer_granularity": 1, "filters": FILTERS[name]}
    study["search"] = {"algorithm": "gradient"}
    study["study"] = {"name": "gradient", "held_out": 0.5}
    file = folder / ("study.yaml" if name == next(iter(FILTERS)) else "fine.yaml")
    file.write_text(yaml.safe_dump(study))
    return file


def timed(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(file: Path, steps: int, engine: GradientEngine | None) -> GradientEngine:
    """Print what a step takes. The engine is started for the first study, and serves the next."""
    config = load_config(file)
    setup = build(config, check_values=False)
    if engine is None:
        choice = replace(choose_engine(config), differences=setup.rules.differences)
        began = time.perf_counter()
        engine = choice.start(setup.sources, setup.longest)  # type: ignore[assignment]
        assert engine is not None
        print(f"engine started in {time.perf_counter() - began:.1f} s", flush=True)
    questions, by_task = setup.search, examples_of(setup.search)
    ids = [[question.id for question in task.questions] for task in questions.tasks]
    batches = Batches(ids, question_shares(questions.tasks), 96, 0)
    point = setup.rules.sampler(1, None).replay.mean(0, {})
    recipe = setup.genome.recipe(point)

    def step(number: int) -> Any:
        batch = batches.at(number)
        chosen = [by_task[item.task][item.question] for item in batch]
        return engine.step(recipe, chosen, [item.weight for item in batch], Loss())

    first = timed(lambda: step(0))
    torch.cuda.reset_peak_memory_stats()
    seconds = [timed(lambda n=n: step(n)) for n in range(1, steps + 1)]  # type: ignore[misc]
    peak = torch.cuda.max_memory_allocated() / 2**30
    reserved = torch.cuda.max_memory_reserved() / 2**30
    merging = statistics.median(timed(lambda: engine.load(recipe)) for _ in range(3))
    contracting, tokens = contraction_seconds(engine, lambda: step(1))
    median = statistics.median(seconds)
    print(
        f"{len(setup.genome.space)} parameters on {torch.cuda.get_device_name()}: first step "
        f"{first:.1f} s, then {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
        f"{tokens} tokens; peak {peak:.1f} GiB allocated, {reserved:.1f} reserved; merging "
        f"{merging:.3f} s, contracting {contracting:.3f} s: "
        f"{(merging + contracting) / median:.1%} of a step",
        flush=True,
    )
    return engine


def contraction_seconds(engine: GradientEngine, step: Callable[[], Any]) -> tuple[float, int]:
    """The seconds of a step's contractions on the GPU, and the tokens that the step reads."""
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    add = engine._derivatives.add

    def measured(name: str, gradient: torch.Tensor) -> None:
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        add(name, gradient)
        pair[1].record()
        events.append(pair)

    engine._derivatives.add = measured  # type: ignore[method-assign]
    try:
        tokens = step().tokens
    finally:
        engine._derivatives.add = add  # type: ignore[method-assign]
    torch.cuda.synchronize()
    return sum(first.elapsed_time(last) for first, last in events) / 1000, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=["make", "steps"])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.only != "steps":
        make(given.folder, given.layers, times=2)
    files = [write_study(given.folder, given.layers, name) for name in FILTERS]
    engine: GradientEngine | None = None
    for file in files if given.only != "make" else ():
        engine = measure(file, given.steps, engine)


if __name__ == "__main__":
    main()
