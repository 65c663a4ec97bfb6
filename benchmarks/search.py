"""Held-out score against questions asked: real studies, with each part of the search alone.

    python benchmarks/search.py OUT.jsonl [--config FILE] [--trials 120] [--seeds 4] [--only PART]
    python benchmarks/search.py OUT.jsonl --report FIGURE.png

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cmaes import CMA

from objectives.engines.engine import Engine
from objectives.merge.recipe import MergeRecipe
from objectives.sampling import Sample, estimate
from objectives.scoring import Exam, Scores, TaskScores
from objectives.tasks.task import Task
from storage.trials import TrialRecord
from study.config import SearchConfig, StudyConfig
from study.config_file import load_config
from study.engine_choice import EngineChoice, choose_engine
from study.interrupts import Interrupts
from study.join import open_worker
from study.sampler import Place, Replay, ReplaySampler, places_of, start_of
from study.setup import Setup, build
from study.worker import Worker

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "study.yaml"
SHARE, TOP = 0.25, 20
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


class RandomReplay(Replay):
    """Proposes points of the space at random, each a function of its place."""

    def propose(self, place: Place, finished: Mapping[Any, Any]) -> dict[str, float]:
        generator = np.random.default_rng([self._seed, *place])
        return self._scaled(generator.random(len(self._space)))


class RandomSetup(Setup):
    def sampler(self, population: int, begin: Any = None) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        start = start_of(space, seed, False)
        return ReplaySampler(RandomReplay(space, seed, population, 1 / 6, start), space)


class CoarseReplay(Replay):
    """CMA-ES over few blocks, which are split at set generations: the mean is carried over, and
    the covariance, with what the new directions had as their block."""

    stages: Sequence[tuple[int, int]] = ()
    """From which generation on there are so many blocks."""

    def _rewind(self) -> None:
        self._stage = 0
        self._merged = self._expansion(self.stages[0][1])
        count = self._merged.shape[1]
        start = np.linalg.pinv(self._merged) @ self._start
        self._cma = CMA(
            start, self._sigma, np.tile([0.0, 1.0], (count, 1)), population_size=self.population
        )
        self._told = 0

    def _expansion(self, blocks: int) -> Any:
        """[parameters, coarse parameters], ones where a coarse one stands for a parameter."""
        names = [name.split("/") for name in self._space]
        depth = {block: i for i, block in enumerate(dict.fromkeys(n[1] for n in names))}
        keys = [(n[0], n[2], depth[n[1]] * blocks // len(depth)) for n in names]
        places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        made = np.zeros((len(keys), len(places)))
        made[range(len(keys)), [places[key] for key in keys]] = 1
        return made

    def _advance(self, generation: int, finished: Mapping[Any, Any]) -> None:
        if generation < self._told:
            self._rewind()
        while self._told < generation:
            self._tell(self._told, finished)
            self._told += 1
            stage = sum(self._told >= begin for begin, _ in self.stages) - 1
            if stage > self._stage:
                self._split(stage)

    def _split(self, stage: int) -> None:
        finer = self._expansion(self.stages[stage][1])
        up = np.linalg.pinv(finer) @ self._merged
        old = self._cma
        cov = up @ old._C @ up.T
        inside = np.eye(len(up)) - up @ np.linalg.pinv(up)
        cov += inside * float(np.mean(np.diag(old._C)))
        bounds = np.tile([0.0, 1.0], (len(up), 1))
        self._cma = CMA(
            np.clip(up @ old.mean, 0, 1),
            float(old._sigma),
            bounds,
            cov=cov,
            population_size=self.population,
        )
        self._stage, self._merged = stage, finer

    def _scaled(self, shares: Any) -> dict[str, float]:
        return super()._scaled(self._merged @ shares)

    def _shares(self, params: Mapping[str, float]) -> Any:
        return np.linalg.pinv(self._merged) @ super()._shares(params)


@dataclass(frozen=True)
class CoarseSetup(Setup):
    stages: Sequence[tuple[int, int]] = ()

    def sampler(self, population: int, begin: Any = None) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        kind = type("Staged", (CoarseReplay,), {"stages": self.stages})
        made = kind(space, seed, population, 1 / 6, start_of(space, seed, False))
        return ReplaySampler(made, space)


class RacedExam(Exam):
    """Takes a trial's sample in blocks, each of every task in proportion, and leaves off after one
    at which the estimate is half an error below the mean of the generation before: the estimate so
    far is the trial's. (All are asked at once here, and those after it forgotten.)"""

    blocks, soft = 1, 0.0
    records: Callable[[], Sequence[TrialRecord]]

    def ask(self, engine: Engine, samples: Mapping[str, Sample] | None = None) -> Scores:
        scores = super().ask(engine, samples)
        before = self._before() if samples else []
        if not before:
            return scores
        for block in range(1, self.blocks + 1):
            parts = {name: self._part(task, block) for name, task in scores.tasks.items()}
            value = variance = 0.0
            for task in parts.values():
                of = task.sample
                expected_Q = self.soft * of.expected_soft_Q + (1 - self.soft) * of.expected_Q
                ranked_Q = self.soft * task.soft_Q + (1 - self.soft) * task.right_Q
                found = estimate(ranked_Q[of.asked_S].astype(np.float64), expected_Q, of)
                value += task.weight * found.mean
                variance += task.weight**2 * found.sampling_variance
            if value + 0.5 * math.sqrt(variance) < statistics.fmean(before):
                break
        return Scores(parts)

    def _before(self) -> list[float]:
        finished, _ = places_of([r for r in self.records() if r.complete])
        now = max((place.generation for place in finished), default=0)
        size = sum(place.generation == 0 for place in finished)
        if sum(place.generation == now for place in finished) == size:
            now += 1
        return [value for place, (_, value) in finished.items() if place.generation == now - 1]

    def _part(self, task: TaskScores, block: int) -> TaskScores:
        sample = task.sample
        count = len(sample.asked_S)
        order = np.random.default_rng(count).permutation(count)
        kept = np.sort(order[: round(count * block / self.blocks)])
        part = replace(
            sample,
            asked_S=sample.asked_S[kept],
            chances_S=sample.chances_S[kept] * len(kept) / count,
        )
        return replace(task, sample=part)


def made(config: StudyConfig, part: Mapping[str, Any], seed: int, trials: int) -> Setup:
    """The study of one part."""
    changes: dict[str, Any] = {
        "study": config.study.model_copy(update={"seed": seed, "trials": trials}),
        "search": SearchConfig(soft=part.get("soft", 0.0), questions=part.get("questions", 1.0)),
    }
    setup = build(config.model_copy(update=changes), check_values=False)
    if share := part.get("limit"):
        tasks = [_limited(task, share, seed) for task in setup.search.tasks]
        setup = replace(setup, search=Exam(tasks, setup.search.tokenizer))
    if blocks := part.get("race"):
        exam = RacedExam(setup.search.tasks, setup.search.tokenizer)
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
    return task.only([task.questions[i] for i in kept])


def points(setup: Setup, choice: EngineChoice, trials: int, every: int) -> Iterator[dict[str, Any]]:
    """Where the study stands after each `every` generations, until all trials are finished."""
    with tempfile.TemporaryDirectory() as folder, Interrupts() as interrupts:
        url = f"sqlite:///{folder}/study.db"
        with open_worker(setup, url, trials, choice, interrupts) as worker:
            if isinstance(setup.search, RacedExam):
                setup.search.records = worker.trials.all
            for budget in range(every * worker.population, trials + 1, every * worker.population):
                worker.search(budget, math.inf)
                yield _point(worker, budget // worker.population)


def _point(worker: Worker, generation: int) -> dict[str, Any]:
    records = [r for r in worker.trials.all() if r.complete]
    finished, _ = places_of(records)
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
    return worker.setup.held_out.ask(worker.engine).value


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
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, merge in zip(axes, ("CMA mean", "mean of the top"), strict=True):
        for part, by_generation in values.items():
            rows = [by_generation[g] for g in sorted(by_generation)]
            asked = [statistics.fmean(p["asked"] for p in row) for row in rows]
            mean, error = zip(*(_mean([p[merge] for p in row]) for row in rows), strict=True)
            axis.errorbar(asked, mean, error, label=part, capsize=2, linewidth=1)
        axis.set(xscale="log", xlabel="questions asked", title=f"{merge}, held-out score")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(given.report, dpi=120)
    print("| part | seeds | trials | questions asked | CMA mean, held-out | mean of the top |")
    print("|---|---|---|---|---|---|")
    for part, by_generation in values.items():
        row = by_generation[max(by_generation)]
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
