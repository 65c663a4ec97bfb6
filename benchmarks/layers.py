"""Paths through layers against merges of weights, at equal questions.

    python -m benchmarks.layers STUDY.yaml OUT.jsonl [--only NAME ...] [--seeds 0 1 2]
        [--questions 20000] [--device cuda] [--first MODEL] [--table]

STUDY.yaml merges weights; the paths go through the same models, without the base. Each search is a
study that the product's own worker runs on SQLite, to its verdict, as in comparison.py. The ways
that go on after a merge of weights give each part half of the questions: the second part starts at
the final merge of the first one.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparison import (
    asked_questions,
    finished_study,
    made,
    read_lines,
    run_missing,
    search_parser,
    started,
    trials_within,
)
from benchmarks.comparison_parts import WAYS as WEIGHT_WAYS
from benchmarks.comparison_parts import SharedChoice
from objectives.export.export import export
from study.config.genome import PathConfig
from study.config.load import load_config
from study.config.study import StudyConfig
from study.search.genome import recipe_of
from study.search.paths.genome import PathGenome
from study.search.paths.replay import PathReplay
from study.search.rules import SearchRules
from study.search.sampler import ReplaySampler
from study.search.state import Evaluations, Slot, seed_of
from study.setup.engine import choose_engine
from study.setup.setup import Setup, build
from study.verdict.judge import judge
from study.worker.worker import Worker


@dataclass(frozen=True)
class Way:
    """A search for a path."""

    genome: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the section `genome`, besides the models."""
    setup: type[Setup] = Setup
    after_weights: bool = False
    """Start at the final merge of a search for weights."""


class RandomPaths(PathReplay):
    """Proposes paths from the distribution of the first generation only."""

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        self._rewind()
        return self._params(self._optimizer.ask(seed_of(self._seed, slot)))


class RandomPathRules(SearchRules):
    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        genome, study = self.genome, self.config.study
        assert isinstance(genome, PathGenome)
        first = genome.start_probabilities()
        replay = RandomPaths(genome.space, study.seed, population, study.sigma, first)
        return ReplaySampler(replay, genome.space)


class RandomPathSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        return RandomPathRules(self.config, self.genome, self.search)


WAYS: dict[str, Way | None] = {
    "weights": None,
    "path": Way(),
    "path, no scales": Way({"scale_layers": False}),
    "path, window 0": Way({"window": 0}),
    "path, window 3": Way({"window": 3}),
    "random paths": Way(setup=RandomPathSetup),
    "path after weights": Way(after_weights=True),
}


def of_paths(config: StudyConfig, way: Way, seed: int, questions: int, first: Path | None) -> Setup:
    models = [*([str(first)] if first else []), *config.genome.models]
    genome = PathConfig.model_validate({"kind": "layers", "models": models, **way.genome})
    study = config.study.model_copy(update={"seed": seed, "population": None})
    changed = config.model_copy(update={"genome": genome, "study": study})
    setup = build(changed, check_values=False)
    limited = setup.config.with_trials(trials_within(setup, questions))
    return way.setup(**(vars(setup) | {"config": limited}))


def run(
    config: StudyConfig, name: str, seed: int, questions: int, shared: SharedChoice
) -> dict[str, Any]:
    """Run one way with one seed. `shared` is the engine of all merges of weights."""
    began, way = time.monotonic(), WAYS[name]
    with tempfile.TemporaryDirectory() as folder:
        first, asked, before = None, 0, {}
        if way is None or way.after_weights:
            share = questions if way is None else questions // 2
            setup = made(config, WEIGHT_WAYS["CMA-ES"], seed, share)
            with finished_study(setup, shared) as worker:
                row, asked = _row(worker), asked_questions(worker)
                if way is not None:
                    before, first = row["contenders"], Path(folder) / "weights"
                    _write_final(worker, first)
        if way is not None:
            paths = of_paths(config, way, seed, questions - asked, first)
            with finished_study(paths, choose_engine(config)) as worker:
                row, asked = _row(worker), asked + asked_questions(worker)
    seconds = time.monotonic() - began
    return {"way": name, "seed": seed, "asked": asked, "seconds": seconds, "before": before} | row


def _write_final(worker: Worker, out: Path) -> None:
    setup = worker.setup
    final = judge(setup, worker.trials.all(), worker.answers).final
    assert final is not None
    recipe = recipe_of(final.contender.record, setup.genome)
    export(recipe, setup.sources, setup.locations, out, "")


def _row(worker: Worker) -> dict[str, Any]:
    """Return what a finished study has found."""
    setup, records = worker.setup, worker.trials.all()
    judgement = judge(setup, records, worker.answers)
    held_out = {c.contender.name: c.held_out for c in judgement.contenders if c.held_out}
    final = judgement.final
    genome, hops = setup.genome, None
    if final is not None and isinstance(genome, PathGenome):
        data = recipe_of(final.contender.record, genome).to_dict()
        hops = [[h["model"], h["layer"], round(h["scale"], 3)] for h in data.get("hops", [])]
    return {
        "parameters": len(genome.space),
        "trials": setup.config.study.trials,
        "roles": {c.contender.name: c.contender.role for c in judgement.contenders},
        "contenders": {name: scores.value for name, scores in held_out.items()},
        "errors": {name: scores.error for name, scores in held_out.items()},
        "search": {c.contender.name: c.search.value for c in judgement.contenders},
        "final": final and final.contender.name,
        "sentence": judgement.sentence,
        "hops": hops,
    }


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Return the held-out scores of the final merges, in Markdown."""
    rows = [
        "| search | parameters | questions | seed | best parent | final | layers | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        scores, roles = line["contenders"], line["roles"]
        parent = max(scores[name] for name, role in roles.items() if role == "parent")
        hops = len(line["hops"]) if line["hops"] else "-"
        cells = [line["way"], line["parameters"], f"{line['asked']:,}", line["seed"]]
        cells += [f"{parent:.3f}", f"{scores[line['final']]:.3f}", hops, line["sentence"][:90]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def main() -> None:
    parser = search_parser(__doc__, list(WAYS))
    parser.add_argument("--first", help="the model that paths start at")
    given = parser.parse_args()
    if given.table:
        print("\n".join(table(read_lines(given.out))))
        return
    config = load_config(given.file)
    on_gpu = {"batch_tokens": 65536} if given.device.startswith("cuda") else {}
    changes = {"kind": "transformers", "device": given.device, **on_gpu}
    models = tuple(sorted(config.genome.models, key=lambda model: model != given.first))
    config = config.model_copy(
        update={
            "engine": config.engine.model_copy(update=changes),
            "genome": config.genome.model_copy(update={"models": models}),
        }
    )
    shared = started(given.file, given.device)
    run_missing(
        given,
        lambda name, seed: run(config, name, seed, given.questions, shared),
        lambda row: "\n".join(table([row])[2:]),
    )


if __name__ == "__main__":
    main()
