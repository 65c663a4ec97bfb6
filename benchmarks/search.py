"""Held-out score against questions asked: real studies, with each part of the search alone.

    python -m benchmarks.search OUT.jsonl [--config FILE] [--trials 120] [--seeds 4] [--only PART]
    python -m benchmarks.search OUT.jsonl --report FIGURE.png

Each study runs through the product's own worker on SQLite. After every few generations two merges
that choose without luck, the mean of CMA-ES's distribution and the mean of the top quarter (at most
20), are asked all held-out questions; that is not counted as asked. A line of OUT.jsonl is one
point; studies that stand there already are not run again. "limit" is a fixed random subset of the
search questions, as MERGE^3 takes one.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_parts import CoarseSetup, RacedQuestionSet, RandomSetup
from objectives.merge.recipe import MergeRecipe
from objectives.scoring import QuestionSet
from objectives.tasks.task import Task
from storage.trials import TrialRecord
from study.cli.interrupts import Interrupts
from study.config.load import load_config
from study.config.study import SearchConfig, StudyConfig
from study.search.state import SearchState
from study.setup.engine import EngineChoice, choose_engine
from study.setup.setup import Setup, build
from study.worker.join import join_study
from study.worker.worker import Worker

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "study.yaml"
SHARE, TOP = 0.25, 20
TICKS = (3_000, 6_000, 12_000, 25_000, 50_000)
PARTS: dict[str, dict[str, Any]] = {
    "plain CMA-ES": {},
    "soft": {"soft": 1.0},
    "schedule": {"questions": SHARE},
    "soft and schedule": {"soft": 1.0, "questions": SHARE},
    "half soft and schedule": {"soft": 0.5, "questions": SHARE},
    "coarse to fine": {"coarse": ((0, 2), (3, 4), (6, 8))},
    "racing": {"questions": 0.98, "race": 8},
    "soft, schedule and racing": {"soft": 1.0, "questions": SHARE, "race": 4},
    "all": {"soft": 1.0, "questions": SHARE, "race": 4, "coarse": ((0, 2), (3, 4), (6, 8))},
    "limit": {"limit": SHARE},
    "random search": {"random": True},
}


def made(config: StudyConfig, part: Mapping[str, Any], seed: int, trials: int) -> Setup:
    """The study of one part."""
    changes: dict[str, Any] = {
        "study": config.study.model_copy(update={"seed": seed, "trials": trials}),
        "search": SearchConfig(soft=part.get("soft", 0.0), questions=part.get("questions", 1.0)),
    }
    setup = build(config.model_copy(update=changes), check_values=False)
    if share := part.get("limit"):
        tasks = [_limited(task, share, seed) for task in setup.search.tasks]
        setup = replace(setup, search=QuestionSet(tasks, setup.search.tokenizer))
    if blocks := part.get("race"):
        exam = RacedQuestionSet(setup.search.tasks, setup.search.tokenizer)
        exam.blocks, exam.soft = blocks, part.get("soft", 0.0)
        setup = replace(setup, search=exam)
    if stages := part.get("coarse"):
        return CoarseSetup(**vars(setup), stages=stages)
    if part.get("random"):
        return RandomSetup(**vars(setup))
    return setup


def _limited(task: Task, share: float, seed: int) -> Task:
    """The task with a random share of its questions."""
    count = len(task.questions)
    order = np.random.default_rng([seed, count]).permutation(count)
    kept = sorted(int(i) for i in order[: max(1, round(share * count))])
    return task.with_questions([task.questions[i] for i in kept])


def points(setup: Setup, choice: EngineChoice, trials: int, every: int) -> Iterator[dict[str, Any]]:
    """Where the study stands after each `every` generations, until all trials are finished."""
    with tempfile.TemporaryDirectory() as folder, Interrupts() as interrupts:
        url = f"sqlite:///{folder}/study.db"
        with join_study(setup, url, choice, interrupts) as worker:
            if isinstance(setup.search, RacedQuestionSet):
                setup.search.records = worker.trials.all
            for budget in range(every * worker.population, trials + 1, every * worker.population):
                worker.setup = replace(setup, config=setup.config.with_trials(budget))
                worker.search(math.inf)
                yield _point(worker, budget // worker.population)


def _point(worker: Worker, generation: int) -> dict[str, Any]:
    records = [r for r in worker.trials.all() if r.complete]
    finished = SearchState.of(records).finished
    top = sorted(finished.values(), key=lambda found: -found[1])
    top = top[: min(TOP, max(1, len(top) // 4))]
    means = {name: statistics.fmean(p[name] for p, _ in top) for name in top[0][0]}
    replay, genome = worker.sampler.replay, worker.setup.genome
    return {
        "generation": generation,
        "trials": len(finished),
        "asked": sum(_asked(r) for r in records if r.kind == "search"),
        "CMA mean": _held_out(worker, genome.recipe(replay.mean(generation, finished))),
        "mean of the top": _held_out(worker, genome.recipe(means)),
    }


def _asked(record: TrialRecord) -> int:
    return int(record.attributes["result"]["asked"])


def _held_out(worker: Worker, recipe: MergeRecipe) -> float:
    worker.engine.load(recipe)
    return worker.setup.held_out.evaluate(worker.engine).value


def measure(given: argparse.Namespace) -> None:
    config = load_config(given.config)
    choice = choose_engine(config, given.engine)
    done = {(line["part"], line["seed"]) for line in _lines(given.out)}
    for seed in range(given.seeds):
        for name in given.only or PARTS:
            if (name, seed) in done:
                continue
            setup = made(config, PARTS[name], seed, given.trials)
            whole = points(setup, choice, given.trials, given.every)
            found = [{"part": name, "seed": seed, **point} for point in whole]
            with given.out.open("a") as file:
                file.writelines(json.dumps(point) + "\n" for point in found)
            print(json.dumps(found[-1]), flush=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def report(given: argparse.Namespace) -> None:
    """The mean over seeds with its standard error, as a table and a figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    values: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in _lines(given.out):
        values[line["part"]][line["generation"]].append(line)
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), sharey=True)
    for axis, merge in zip(axes, ("CMA mean", "mean of the top"), strict=True):
        for number, (part, by_generation) in enumerate(values.items()):
            if merge == "CMA mean" and PARTS[part].get("random"):
                continue  # there is no such distribution
            rows = [by_generation[g] for g in sorted(by_generation)]
            asked = [statistics.fmean(p["asked"] for p in row) for row in rows]
            mean, error = zip(*(_mean([p[merge] for p in row]) for row in rows), strict=True)
            axis.errorbar(asked, mean, error, label=part, capsize=2, lw=1, color=f"C{number}")
        axis.set(xscale="log", xlabel="questions asked", title=f"{merge}, held-out score")
        axis.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(given.report, dpi=120)
    print("| part | seeds | trials | questions asked | CMA mean, held-out | mean of the top |")
    print("|---|---|---|---|---|---|")
    shown = [
        (part, by_generation[g])
        for part, by_generation in values.items()
        for g in sorted({max(by_generation) // 2, max(by_generation)})
    ]
    for part, row in shown:
        cells = [
            f"{mean:.4f} ± {error:.4f}"
            for mean, error in (_mean([p[m] for p in row]) for m in ("CMA mean", "mean of the top"))
        ]
        asked = statistics.fmean(p["asked"] for p in row)
        print(f"| {part} | {len(row)} | {row[0]['trials']} | {asked:.0f} | {' | '.join(cells)} |")


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=DEMO)
    parser.add_argument("--engine", help="in place of the config's")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--every", type=int, default=2, help="generations between two points")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--report", type=Path, help="draw this figure and print the table")
    given = parser.parse_args()
    (report if given.report else measure)(given)


if __name__ == "__main__":
    main()
