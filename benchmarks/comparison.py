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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison_parts import WAYS, ContinuedSetup, RememberingEngine, SharedChoice, Way
from benchmarks.gradient_search import affordable, start_engine
from study.cli.interrupts import Interrupts
from study.config.load import load_config
from study.config.study import StudyConfig
from study.search.ascent.jobs import CHECKPOINT_INTERVAL, LAST_STEPS
from study.search.state import AFTER, LOSS
from study.setup.engine import EngineChoice
from study.setup.setup import Setup, build
from study.verdict.judge import Judgement, judge
from study.worker.join import join_study
from study.worker.worker import Worker

BACKWARD = 3
"""What a question in a gradient step counts."""


def started(file: Path, device: str) -> SharedChoice:
    """Start the engine for all searches of a study."""
    setup = build(load_config(file), check_values=False)
    engine = start_engine(setup, device)
    kind = ("transformers", device, engine._dtype, engine._batch_tokens)
    return SharedChoice(*kind, engine=RememberingEngine(engine))


def made(config: StudyConfig, way: Way, seed: int, questions: int) -> Setup:
    """The study of one way and seed, with as many trials as it may ask questions."""
    changes = {
        "study": config.study.model_copy(update={"seed": seed, "population": None, **way.study}),
        "genome": config.genome.model_copy(update=way.genome),
        "search": config.search.model_copy(update=way.search),
        **way.top,
    }
    setup = build(config.model_copy(update=changes), check_values=False)
    trials = trials_within(setup, questions)
    search = config.search.model_copy(update={**way.search, "steps": trials})
    changed = setup.config.model_copy(update={"search": search}).with_trials(trials)
    fields = {**vars(setup), "config": changed}
    return way.setup(**fields)


def trials_within(setup: Setup, questions: int) -> int:
    """The most trials that, with the checkpoints of an ascent, ask at most so many questions."""
    rules, count = setup.rules, setup.search.questions
    if not rules.by_gradient:
        population = rules.population()
        return max(1, int(questions / (rules.share * count)) // population) * population
    validation = count - rules.learned_questions
    return affordable(questions, BACKWARD * rules.batch, validation, CHECKPOINT_INTERVAL)


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
        judgement, asked = _judged(worker), asked_questions(worker)
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
            judgement, asked = _judged(worker), asked + asked_questions(worker)
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


def asked_questions(worker: Worker) -> int:
    """The questions that the search asked, a gradient step's three times."""
    total = 0
    for record in worker.trials.all():
        if not record.complete or record.baseline or AFTER in record.attributes:
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


def search_parser(description: str | None, ways: Sequence[str]) -> argparse.ArgumentParser:
    """Return the command line of a script that runs some of these ways to search."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=ways, default=ways)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true")
    return parser


def run_missing(
    given: argparse.Namespace,
    run_one: Callable[[str, int], dict[str, Any]],
    shown: Callable[[dict[str, Any]], str],
) -> None:
    """Run every way with every seed, except those whose lines are in the file; add their lines, and
    print what is `shown` of each."""
    done = {(line["way"], line["seed"]) for line in read_lines(given.out)}
    for seed in given.seeds:
        for name in given.only:
            if (name, seed) in done:
                continue
            row = run_one(name, seed)
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(shown(row), f"{row.get('seconds', 0):.0f} s", flush=True)


def main() -> None:
    given = search_parser(__doc__, list(WAYS)).parse_args()
    if given.table:
        print("\n".join(table(read_lines(given.out))))
        return
    config, choice = load_config(given.file), started(given.file, given.device)
    keys = ("way", "seed", "asked", "final", "contenders")
    run_missing(
        given,
        lambda name, seed: run(config, name, seed, given.questions, choice),
        lambda row: json.dumps({key: row[key] for key in keys}),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
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
