"""What a merge costs, method by method, in blocks of four layers.

    python -m benchmarks.methods [--models FOLDER] [--repeats 5] [--device cpu]

FOLDER holds a model named base and others; the demo's where none is given. On a CPU one thread's
own time is counted, which a busy machine changes little.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from objectives.merge.catalogue import METHODS
from objectives.merge.stores import Files, Resident, Store
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "models"


def genome_of(method: str, parents: Sequence[str], layers: int) -> MergeGenome:
    known = METHODS[method]
    config = GenomeConfig(
        models=tuple(parents[: known.most]),
        base_model=None if known.base == "unused" else "base",
        merge_method=method,
        layer_granularity=4,
    )
    return MergeGenome(config, SpaceConfig(), layers)


def seconds(
    method: str, stream: MergeStream, device: torch.device, repeats: int
) -> tuple[float, float, int]:
    """Of the first merge, the median of the others, and the number of models."""
    parents = [label for label in stream.sources.checkpoints if label != "base"]
    genome, taken = genome_of(method, parents, stream.sources.num_layers), []
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    point = {name: 0.3 * r.low + 0.7 * r.high for name, r in genome.space.items()}
    for _ in range(repeats + 1):
        began = clock()
        for _ in stream.tensors(genome.recipe(point)):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - began)
    return taken[0], statistics.median(taken[1:]), len(genome.models)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=DEMO)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    folders = {path.name: path for path in sorted(given.models.iterdir()) if path.is_dir()}
    sources = Sources(folders, "base")
    store: Store = Files(sources) if device.type == "cpu" else Resident(sources, device)
    print("| method | models | first merge, ms | a merge, ms |\n|---|---|---|---|")
    for method in METHODS:
        first, typical, models = seconds(method, MergeStream(sources, store), device, given.repeats)
        print(f"| `{method}` | {models} | {1000 * first:.0f} | {1000 * typical:.0f} |", flush=True)


if __name__ == "__main__":
    main()
