"""Ways to search the same merge, at equal questions: the held-out score of what each one offers.

    python -m benchmarks.comparison STUDY.yaml OUT.jsonl [--only NAME ...] [--seeds 0 1 2]
        [--questions 20000] [--device cuda]
    python -m benchmarks.comparison STUDY.yaml OUT.jsonl --table

Each search is a study that the product's own worker runs on SQLite, to its verdict. A search may
ask `--questions`; a question in a gradient step counts three times, because its backward pass takes
as long as two forward passes. The baselines of a study and its final comparison are not counted:
every search has the same. A line of OUT.jsonl is one search with one seed; those that stand there
already are not run again.
"""

import argparse
import contextlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.search_parts import RandomSetup
from objectives.engines.engine import Answer, Engine, Prompt
from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Example, Loss
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Resident
from objectives.models.sources import Sources
from study.cli.interrupts import Interrupts
from study.config.genome import Range
from study.config.load import load_config
from study.config.study import StudyConfig
from study.search.ascent.jobs import LAST_STEPS
from study.search.rules import SearchRules
from study.search.sampler import Replay, ReplaySampler
from study.search.state import LOSS
from study.setup.engine import EngineChoice
from study.setup.setup import Setup, build
from study.verdict.judge import Judgement, judge
from study.worker.join import join_study
from study.worker.worker import Worker

BACKWARD = 3
"""What a question in a gradient step counts."""
FINE = {"layer_granularity": 1, "filters": ("self_attn", "mlp")}
WIDTH = 10.0
"""The width of ranges that a search never leaves, for mergekit-evolve's search without bounds."""


@dataclass(frozen=True)
class Way:
    """A way to search: changes to a config, and the setup that runs it."""

    genome: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    setup: type[Setup] = Setup
    grid: bool = False
    """Score the uniform merges alone."""
    then: str = ""
    """The way that goes on from this one's end, each with half of the questions."""


@dataclass(frozen=True)
class EvolveRules(SearchRules):
    """mergekit-evolve's start and step size, without bounds."""

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        first = {"weight": 1 / len(self.genome.models), "density": 1.0}
        start = [
            (first[name.split("/")[-1]] - range_.low) / WIDTH for name, range_ in space.items()
        ]
        return ReplaySampler(Replay(space, seed, population, 1 / 6 / WIDTH, start), space)


class EvolveSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        wide = {n: Range(low=-WIDTH / 2, high=WIDTH / 2) for n in self.genome.space}
        self.genome.space = wide
        return EvolveRules(self.config, self.genome, self.search)


@dataclass(frozen=True)
class ContinuedRules(SearchRules):
    """CMA-ES around a point."""

    start: Mapping[str, float] = field(default_factory=dict)

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        shares = [(self.start[name] - r.low) / (r.high - r.low) for name, r in space.items()]
        return ReplaySampler(Replay(space, seed, population, 1 / 20, shares), space)


@dataclass(frozen=True)
class ContinuedSetup(Setup):
    start: Mapping[str, float] = field(default_factory=dict)

    @property
    def rules(self) -> SearchRules:
        return ContinuedRules(self.config, self.genome, self.search, self.start)


WAYS: dict[str, Way] = {
    "task arithmetic grid": Way(genome={"merge_method": "task_arithmetic"}, grid=True),
    "random search": Way(search={"soft": 0.0}, setup=RandomSetup),
    "mergekit-evolve": Way(search={"soft": 0.0, "questions": 1.0}, setup=EvolveSetup),
    "CMA-ES": Way(),
    "CMA-ES by score": Way(search={"soft": 0.0}),
    "gradient": Way(search={"algorithm": "gradient"}),
    "gradient, options": Way(search={"algorithm": "gradient", "loss": "options"}),
    "gradient, then CMA-ES": Way(search={"algorithm": "gradient"}, then="CMA-ES"),
    "fine gradient": Way(FINE, {"algorithm": "gradient"}),
    "fine gradient, options": Way(FINE, {"algorithm": "gradient", "loss": "options"}),
    "gradient, q 0.7": Way(search={"algorithm": "gradient", "loss_q": 0.7}),
    "gradient, q 1": Way(search={"algorithm": "gradient", "loss_q": 1.0}),
    "fine gradient, q 0.7": Way(FINE, {"algorithm": "gradient", "loss_q": 0.7}),
    "fine gradient, q 1": Way(FINE, {"algorithm": "gradient", "loss_q": 1.0}),
}


class RememberingEngine:
    """An engine whose answers to whole sets of prompts are kept by merge: the parents and uniform
    merges are the same in every study of a seed."""

    def __init__(self, engine: GradientEngine) -> None:
        self._engine = engine
        self._loaded: MergeRecipe | None = None
        self._wanted: MergeRecipe | None = None
        self._answers: dict[tuple[str, int], list[Answer]] = {}

    def load(self, recipe: MergeRecipe) -> None:
        self._wanted = recipe

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        key = repr(self._wanted), hash(tuple(prompts))
        if key not in self._answers:
            self._answers[key] = self._current().answer(prompts)
        return self._answers[key]

    def step(self, recipe: MergeRecipe, *rest: Any) -> Any:
        self._wanted = self._loaded = recipe
        return self._engine.step(recipe, *rest)

    def losses(self, examples: Sequence[Example], loss: Loss) -> list[float]:
        return self._current().losses(examples, loss)

    def close(self) -> None:
        """Leave the engine for the next study."""

    def _current(self) -> GradientEngine:
        assert self._wanted is not None
        if self._loaded != self._wanted:
            self._engine.load(self._wanted)
            self._loaded = self._wanted
        return self._engine


@dataclass(frozen=True)
class SharedChoice(EngineChoice):
    """The choice of an engine that runs already."""

    engine: Engine | None = None

    def start(self, sources: Sources, longest: int) -> Engine:
        assert self.engine is not None
        return self.engine


def started(file: Path, device: str) -> SharedChoice:
    """Start the engine for all searches of a study."""
    setup = build(load_config(file), check_values=False)
    cuda = device.startswith("cuda")
    store = Resident(setup.sources, torch.device(device)) if cuda else None
    steps = {name.split("/")[-1]: 0.02 * (r.high - r.low) for name, r in setup.genome.space.items()}
    dtype, tokens = ("bfloat16", 65536) if cuda else ("float32", 4096)
    engine = GradientEngine(setup.sources, steps, device, dtype, tokens, store=store)
    return SharedChoice(*("transformers", device, dtype, tokens), engine=RememberingEngine(engine))


def made(config: StudyConfig, way: Way, seed: int, questions: int) -> Setup:
    """The study of one way and seed, with as many trials as it may ask questions."""
    changes = {
        "study": config.study.model_copy(update={"seed": seed, "population": None}),
        "genome": config.genome.model_copy(update=way.genome),
        "search": config.search.model_copy(update=way.search),
    }
    setup = build(config.model_copy(update=changes), check_values=False)
    trials = _trials(setup, questions)
    search = config.search.model_copy(update={**way.search, "steps": trials})
    changed = setup.config.model_copy(update={"search": search}).with_trials(trials)
    fields = {**vars(setup), "config": changed}
    return way.setup(**fields)


def _trials(setup: Setup, questions: int) -> int:
    """The most trials that, with the checkpoints of an ascent, ask at most so many questions."""
    rules, count = setup.rules, setup.search.questions
    if not rules.by_gradient:
        population = rules.population()
        return max(1, int(questions / (rules.share * count)) // population) * population
    validation = count - rules.learned_questions
    steps = questions // (BACKWARD * rules.batch)
    while steps * BACKWARD * rules.batch + math.ceil(steps / 4) * validation > questions:
        steps -= 1
    return steps


@contextlib.contextmanager
def finished_study(setup: Setup, choice: EngineChoice) -> Iterator[Worker]:
    """Run a study to its verdict."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Interrupts() as interrupts,
        join_study(setup, f"sqlite:///{folder}/study.db", choice, interrupts) as worker,
    ):
        worker.search(math.inf)
        worker.score_final_merges()
        yield worker


def run(
    config: StudyConfig, name: str, seed: int, questions: int, choice: SharedChoice
) -> dict[str, Any]:
    """Run one way with one seed."""
    way, began = WAYS[name], time.monotonic()
    if way.grid:
        return _grid(made(config, way, seed, questions), choice) | {"way": name, "seed": seed}
    share = questions // 2 if way.then else questions
    setup = made(config, way, seed, share)
    start = _held_out_at_start(setup, choice)
    with finished_study(setup, choice) as worker:
        judgement, asked = _judged(worker), _asked(worker)
        end = next(
            (
                c.contender.record.params
                for c in judgement.contenders
                if c.contender.name == LAST_STEPS
            ),
            None,
        )
    if way.then:
        after = made(config, WAYS[way.then], seed, questions - asked)
        continued = ContinuedSetup(**vars(after), start=end)
        with finished_study(continued, choice) as worker:
            judgement, asked = _judged(worker), asked + _asked(worker)
        setup = continued
    held_out = {c.contender.name: c.held_out for c in judgement.contenders if c.held_out}
    return {
        "way": name,
        "seed": seed,
        "parameters": len(setup.genome.space),
        "trials": setup.config.study.trials,
        "asked": asked,
        "seconds": time.monotonic() - began,
        "roles": {c.contender.name: c.contender.role for c in judgement.contenders},
        "contenders": {name: scores.value for name, scores in held_out.items()},
        "tasks": {
            n: {t: s.mean for t, s in scores.tasks.items()} for n, scores in held_out.items()
        },
        "errors": {name: scores.error for name, scores in held_out.items()},
        "search": {c.contender.name: c.search.value for c in judgement.contenders},
        "start": start,
        "final": judgement.final and judgement.final.contender.name,
        "sentence": judgement.sentence,
        "ensemble": {name: score.to_dict() for name, score in judgement.ensemble.items()},
    }


def _held_out_at_start(setup: Setup, choice: SharedChoice) -> float:
    """The held-out score of the point that the search starts from."""
    sampler = setup.rules.sampler(max(1, setup.rules.population()), None)
    engine = choice.start(setup.sources, setup.longest)
    engine.load(setup.genome.recipe(sampler.replay.mean(0, {})))
    return setup.held_out.evaluate(engine).value


def _judged(worker: Worker) -> Judgement:
    return judge(worker.setup, worker.trials.all(), worker.answers)


def _asked(worker: Worker) -> int:
    """The questions that the search asked, a gradient step's three times."""
    total = 0
    for record in worker.trials.all():
        if not record.complete or record.baseline or "after" in record.attributes:
            continue
        result = record.attributes["result"]
        times = BACKWARD if LOSS in result else 1
        total += times * int(result["asked"])
    return total


def _grid(setup: Setup, choice: SharedChoice) -> dict[str, Any]:
    """The uniform merges of a method; the best by its search score is offered."""
    engine = choice.start(setup.sources, setup.longest)
    held_out, search, errors = {}, {}, {}
    for baseline in setup.genome.baselines():
        if baseline.kind != "uniform":
            continue
        engine.load(baseline.recipe)
        search[baseline.name] = setup.search.evaluate(engine).value
        scores = setup.held_out.evaluate(engine)
        held_out[baseline.name], errors[baseline.name] = scores.value, scores.error
    best = max(search, key=lambda name: search[name])
    return {
        "parameters": 1,
        "trials": len(search),
        "asked": len(search) * setup.search.questions,
        "contenders": held_out,
        "errors": errors,
        "roles": dict.fromkeys(search, "uniform"),
        "search": search,
        "final": best,
        "sentence": "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    lines = _lines(given.out)
    if given.table:
        print("\n".join(table(lines)))
        return
    done = {(line["way"], line["seed"]) for line in lines}
    config, choice = load_config(given.file), started(given.file, given.device)
    for seed in given.seeds:
        for name in given.only:
            if (name, seed) in done:
                continue
            row = run(config, name, seed, given.questions, choice)
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            short = {key: row[key] for key in ("way", "seed", "asked", "final", "contenders")}
            print(json.dumps(short), f"{row.get('seconds', 0):.0f} s", flush=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The held-out scores of the searches, mean and range over seeds, in Markdown."""
    rows = [
        "| search | parameters | questions | seeds | start | mean of the end | best of the search |"
        " best parent | better than it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in WAYS:
        runs = [line for line in lines if line["way"] == name]
        if not runs:
            continue
        parents = [_of_role(run, "parent") for run in runs]
        cells = [
            name,
            str(runs[0]["parameters"]),
            f"{statistics.fmean(run['asked'] for run in runs):,.0f}",
            str(len(runs)),
            _spread([run.get("start") for run in runs]),
            _spread([_of_role(run, "mean") for run in runs]),
            _spread([_of_role(run, "top") or run["contenders"][run["final"]] for run in runs]),
            _spread(parents),
            f"{sum(' is better than the best parent' in run['sentence'] for run in runs)}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _of_role(run: Mapping[str, Any], role: str) -> float | None:
    """The highest held-out score among the contenders of a role; None if there is none."""
    scores = [run["contenders"].get(n) for n, other in run["roles"].items() if other == role]
    return max((score for score in scores if score is not None), default=None)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    each = ", ".join(f"{value:.3f}" for value in known)
    return f"**{statistics.fmean(known):.3f}** ({each})" if len(known) > 1 else each


if __name__ == "__main__":
    main()
