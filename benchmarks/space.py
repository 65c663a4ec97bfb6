"""Where to search: uniform merges over weights and densities, and whole searches in several spaces.

    python -m benchmarks.space [--trials 120] [--seeds 3] [--no-grid]

On the demo's models and questions. The grid is scored on all questions. Each search is a study of
its own; what counts is the held-out score of its best trial against the best uniform merge.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

from objectives.scoring import Scores
from study.cli.interrupts import Interrupts
from study.config.genome import SpaceConfig
from study.config.load import load_config
from study.config.study import StudyConfig
from study.setup.engine import choose_engine
from study.setup.setup import build
from study.verdict.scoreboard import scored_contenders
from study.worker.join import join_study

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "study.yaml"
WEIGHTS = (1 / 3, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5)
DENSITIES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
SPACES: dict[str, dict[str, object]] = {
    "weight 0 to 1.4, density 0.4 to 1": {},
    "weight 0 to 1": {"weight": [0, 1]},
    "weight 0 to 2": {"weight": [0, 2]},
    "weight 0 to 1.4, start 0.4": {"weight": {"low": 0, "high": 1.4, "start": 0.4}},
    "density 0.1 to 1": {"density": [0.1, 1]},
    "density 0.8 to 1": {"density": [0.8, 1]},
    "weight 0 to 1.4, lambda 0.5 to 1.5": {"lambda": [0.5, 1.5]},
}


def grid(config: StudyConfig) -> None:
    """Score of uniform merges by weight (rows) and density (columns), all questions."""
    everything = config.model_copy(
        update={"study": config.study.model_copy(update={"held_out": 0})}
    )
    for normalize in (False, True):
        genome = everything.genome.model_copy(update={"normalize": normalize})
        setup = build(everything.model_copy(update={"genome": genome}))
        engine = choose_engine(config).start(setup.sources, setup.longest)
        print(f"\nnormalize: {normalize} ({setup.search.questions} questions)")
        print("| weight | " + " | ".join(f"density {d:g}" for d in DENSITIES) + " |")
        print("|---" * (len(DENSITIES) + 1) + "|")
        for weight in WEIGHTS if not normalize else (1.0,):
            row = []
            for density in DENSITIES:
                point = {n: weight if n.endswith("weight") else density for n in setup.genome.space}
                engine.load(setup.genome.recipe(point))
                row.append(setup.search.evaluate(engine).value)
            print(f"| {weight:.2f} | " + " | ".join(f"{v:.3f}" for v in row) + " |", flush=True)


def paired_error(a: Scores, b: Scores) -> float:
    """Standard error of the difference of two merges over the same questions."""
    variance = 0.0
    for name, task in a.tasks.items():
        gaps = task.scores_Q - b.tasks[name].scores_Q
        variance += task.weight**2 * float(np.var(gaps, ddof=1)) / len(gaps)
    return math.sqrt(variance)


def search(config: StudyConfig, space: dict[str, object], seed: int, trials: int) -> str:
    study = config.study.model_copy(update={"seed": seed, "trials": trials})
    changed = config.model_copy(update={"study": study, "space": SpaceConfig.model_validate(space)})
    with (
        tempfile.TemporaryDirectory() as folder,
        Interrupts() as interrupts,
        join_study(
            build(changed), f"sqlite:///{folder}/s.db", choose_engine(changed), interrupts
        ) as worker,
    ):
        worker.search(math.inf)
        setup = worker.setup
        worker.held_out.score_all()
        found = scored_contenders(worker.trials.all(), setup.genome, worker.answers)
    by_role = {line.contender.role: line for line in found}
    uniform, best = by_role["uniform"], by_role["best"]
    assert uniform.held_out is not None
    assert best.held_out is not None
    gain = best.held_out.value - uniform.held_out.value
    error = paired_error(best.held_out, uniform.held_out)
    return (
        f"{seed} | {uniform.search.value:.3f} / {uniform.held_out.value:.3f} | "
        f"{best.search.value:.3f} / {best.held_out.value:.3f} | {gain:+.3f} ± {error:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3, help="of the default space; others get one")
    parser.add_argument("--no-grid", action="store_true")
    given = parser.parse_args()
    config = load_config(DEMO)
    if not given.no_grid:
        grid(config)
    print("\n| space | seed | best uniform, search / held-out | best found | gain held-out |")
    print("|---|---|---|---|---|")
    for name, space in SPACES.items():
        for seed in range(given.seeds if not space else 1):
            print(f"| {name} | {search(config, space, seed, given.trials)} |", flush=True)


if __name__ == "__main__":
    main()
