"""What a merge costs, method by method: the demo's models in blocks of four layers.

python benchmarks/methods.py [--repeats 5] [--device cpu]

On a CPU one thread's own time is counted, which a busy machine changes little.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from objectives.merge.catalogue import METHODS
from objectives.merge.sources import Sources
from objectives.merge.stores import Files, Resident, Store
from objectives.merge.stream import MergeStream
from study.genome import Genome
from study.genome_config import GenomeConfig, SpaceConfig

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "models"
PARENTS = ("numeric", "relations", "catalogue")


def genome_of(method: str) -> Genome:
    known = METHODS[method]
    config = GenomeConfig(
        models=PARENTS[: known.most],
        base_model=None if known.base == "unused" else "base",
        merge_method=method,
        layer_granularity=4,
    )
    return Genome(config, SpaceConfig(), 32)


def seconds(method: str, device: torch.device, repeats: int) -> tuple[float, float, int]:
    """Of the first merge, the median of the others, and the number of models."""
    genome = genome_of(method)
    folders = {label: DEMO / label for label in genome.references}
    sources = Sources(folders, genome.reference)
    store: Store = Files(sources) if device.type == "cpu" else Resident(sources, device)
    stream, taken = MergeStream(sources, store), []
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
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | models | first merge, ms | a merge, ms |\n|---|---|---|---|")
    for method in METHODS:
        first, typical, models = seconds(method, torch.device(given.device), given.repeats)
        print(f"| `{method}` | {models} | {1000 * first:.0f} | {1000 * typical:.0f} |", flush=True)


if __name__ == "__main__":
    main()
