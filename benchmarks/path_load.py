"""The time of loading paths through three models of real size.

    python -m benchmarks.path_load FOLDER [--layers 32] [--engine transformers] [--loads 20]
        [--device cuda]

FOLDER is made by real_size.py if it does not exist. The paths are drawn as those of the first
generation of a study, with scales; the first load, which warms up, is not counted.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import torch
import yaml

from benchmarks import real_size
from study.config.load import load_config
from study.search.paths.genome import PathGenome
from study.search.paths.replay import PathReplay
from study.search.state import Slot
from study.setup.engine import choose_engine
from study.setup.setup import Setup, build


def setup_of(folder: Path, layers: int, device: str) -> Setup:
    """Return a study of paths through the three finetunes."""
    task = {"kind": "multiple_choice", "data": "choice.jsonl", "prompt": "choice.yaml"}
    study = {
        "genome": {
            "kind": "layers",
            "models": ["x", "y", "z"],
            "max_hops": layers + layers // 4 + 1,
        },
        "tasks": [{"name": "choice", **task}],
        "study": {"name": "paths"},
        "engine": {"device": device},
    }
    (folder / "paths.yaml").write_text(yaml.safe_dump(study))
    return build(load_config(folder / "paths.yaml"), check_values=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--loads", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    real_size.make(given.folder, given.layers)
    setup = setup_of(given.folder, given.layers, given.device)
    genome = setup.genome
    assert isinstance(genome, PathGenome)
    choice = choose_engine(setup.config, given.engine)
    began = time.monotonic()
    engine = dataclasses.replace(choice, max_hops=genome.max_hops).start(
        setup.sources, setup.longest
    )
    print(f"engine {given.engine} started in {time.monotonic() - began:.1f} s", flush=True)
    replay = PathReplay(genome.space, 0, given.loads + 1, 1 / 6, genome.start_probabilities())
    seconds, hops = [], []
    for number in range(given.loads + 1):
        recipe = genome.recipe(replay.propose(Slot(0, number), {}))
        began = time.monotonic()
        engine.load(recipe)
        if given.device.startswith("cuda") and given.engine == "transformers":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
        hops.append(len(recipe.hops))
    engine.close()
    counted = seconds[1:]
    median, longest = statistics.median(counted), max(counted)
    print(
        f"{given.loads} paths of {min(hops)} to {max(hops)} layers: median {median:.3f} s, ", end=""
    )
    print(f"longest {longest:.3f} s; first {seconds[0]:.3f} s")


if __name__ == "__main__":
    main()
