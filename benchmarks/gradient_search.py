"""Search by gradient, apart from any database: what a study of the same file would reach.

    python benchmarks/gradient_search.py STUDY.yaml [VARIANT ...] [--seeds 0 1 2] [--device cuda]
        [--questions 20000] [--baselines] [--curve] [--out OUT.jsonl]

A VARIANT is settings joined by commas, each over the default, such as
`granularity=1,filters=self_attn+mlp,rate=0.03,loss=all`. A part of the search questions is kept out
of the batches; the checkpoint that is best on it is the one offered, and is then asked the held-out
questions. A question in a batch counts three times, its backward pass as two more, and one of the
part kept out once. `--curve` asks every checkpoint the held-out questions, for a figure.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Example, Loss
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Resident
from objectives.scoring import QuestionSet, Scores
from objectives.tasks.examples import examples, question_shares, validation_split
from study.config.load import load_config
from study.search.ascent.ascent import Ascent, Hyperparameters
from study.search.ascent.batches import Batches
from study.search.ascent.chain_rule import genome_gradient
from study.search.genome import MergeGenome
from study.setup.setup import Setup, build

Params = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """One way to search."""

    name: str = ""
    granularity: int = -1
    """-1 takes the file's, as an empty text does for filters and method."""
    filters: str = ""
    method: str = ""
    loss: str = "all"
    q: float = 0.7
    temperature: float = 1.0
    rate: float = 0.03
    batch: int = 96
    step: float = 0.02
    """How far a number is moved for its derivative, as a share of its range."""
    kept: float = 0.25
    """Of the search questions, what stays out of the batches."""
    every: int = 4
    """Steps from one checkpoint to the next."""
    by: str = "loss"
    """What the checkpoints are compared by: score, soft (probability of right answers) or loss; or
    `last`, which compares nothing."""
    pull: float = 0.0
    start: str = ""
    """A baseline's name, such as `uniform 0.70` or a parent's; empty for the start of the space."""
    questions: int = 0
    beta2: float = 0.99
    decay: float = 0.5
    recompute: int = 1
    """Whether layers are computed again in the backward pass: 0 is faster and takes more memory."""

    @classmethod
    def of(cls, text: str) -> "Variant":
        fields: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            fields[key] = cls.__annotations__[key](value)
        return cls(**{"name": text or "default"} | fields)


class Search:
    """One ascent."""

    def __init__(
        self, setup: Setup, engine: GradientEngine, variant: Variant, seed: int, budget: int
    ) -> None:
        self.genome, self.engine, self.variant = setup.genome, engine, variant
        tasks, tokenizer = setup.search.tasks, setup.search.tokenizer
        pairs = [validation_split(task.questions, variant.kept) for task in tasks]
        read, kept = (
            QuestionSet(
                [t.with_questions(p[part]) for t, p in zip(tasks, pairs, strict=True)], tokenizer
            )
            for part in (0, 1)
        )
        self.kept, self.examples_TQ, self.kept_examples = kept, examples_of(read), examples_of(kept)
        self.kept_shares = question_shares(kept.tasks) if kept.questions else []
        ids = [[question.id for question in task.questions] for task in read.tasks]
        self.batches = Batches(ids, question_shares(read.tasks), variant.batch, seed)
        self.loss = Loss(variant.loss, variant.q, variant.temperature)  # type: ignore[arg-type]
        self.asked, self.seconds = 0, 0.0
        steps = affordable(budget, 3 * variant.batch, kept.questions, variant.every)
        bounds = {name: (r.low, r.high) for name, r in setup.genome.space.items()}
        rule = Hyperparameters(
            steps, variant.rate, variant.decay, variant.pull, beta2=variant.beta2
        )
        self.ascent = Ascent(start_of(setup.genome, variant.start), bounds, rule)

    def run(self) -> Iterator[tuple[int, float, Params]]:
        """Step after step: how many, the batch's loss, and the point that the step leads to."""
        while not self.ascent.finished:
            batch, point = self.batches.at(self.ascent.step), self.ascent.params
            chosen = [self.examples_TQ[item.task][item.question] for item in batch]
            weights = [item.weight for item in batch]
            began = time.perf_counter()
            step = self.engine.step(self.genome.recipe(point), chosen, weights, self.loss)
            self.seconds += time.perf_counter() - began
            by = step.gradient
            self.ascent.tell(genome_gradient(self.genome, point, by.values, by.shared, by.scale))
            self.asked += 3 * len(batch)
            yield self.ascent.step, float(np.dot(step.losses_Q, weights)), self.ascent.params

    def check(self, point: Params) -> tuple[Scores | None, float]:
        """The scores of the part kept out unless only its loss is compared, and that loss."""
        self.engine.load(self.genome.recipe(point))
        self.asked += self.kept.questions
        flat = [example for of_task in self.kept_examples for example in of_task]
        shares = [share for of_task in self.kept_shares for share in of_task]
        loss = float(np.dot(self.engine.losses(flat, self.loss), shares))
        only_loss = self.variant.by in ("loss", "last")
        return None if only_loss else self.kept.evaluate(self.engine), loss


def affordable(budget: int, step: int, check: int, every: int) -> int:
    """The most steps that, with a check every so many and after the last, cost at most a budget."""
    steps = budget // step
    while steps * step + -(-steps // every) * check > budget:
        steps -= 1
    return steps


def start_of(genome: MergeGenome, name: str) -> dict[str, float]:
    """The point that a search starts from."""
    if name:
        return dict(next(b.params for b in genome.baselines() if b.name == name))
    return {
        name: (r.low + r.high) / 2 if r.start is None else r.start
        for name, r in genome.space.items()
    }


def examples_of(exam: QuestionSet) -> list[list[Example]]:
    pairs = zip(exam.tasks, exam.prompts_of_tasks, strict=True)
    return [examples(task, prompts_Q, exam.tokenizer) for task, prompts_Q in pairs]


def searched(search: Search, held_out: QuestionSet, curve: bool) -> dict[str, Any]:
    """Run one search; what its checkpoints scored on the part kept out, and the one offered on the
    held-out questions."""
    points: list[Params] = []
    rows: list[dict[str, Any]] = []
    losses, genome = [], search.genome
    for count, loss, point in search.run():
        losses.append(loss)
        last = point
        checked = count % search.variant.every == 0 or search.ascent.finished
        if search.kept.questions and checked:
            scores, kept_loss = search.check(point)
            points.append(point)
            row = {"step": count, "asked": search.asked, "loss": float(np.mean(losses))}
            row["kept_loss"] = kept_loss
            if scores is not None:
                row |= {"kept": scores.value, "kept_soft": scores.soft}
            if curve:
                row["held_out"] = scored(search.engine, genome.recipe(point), held_out)["value"]
            rows.append(row)
            losses = []
    worth = {
        "score": [row["kept"] for row in rows if "kept" in row],
        "soft": [row["kept_soft"] for row in rows if "kept" in row],
        "loss": [-row["kept_loss"] for row in rows],
    }
    picked = {name: int(np.argmax(values)) for name, values in worth.items() if values}
    ends = {name: (rows[i]["step"], points[i]) for name, i in picked.items()}
    ends["last"] = (search.ascent.step, last)
    held: dict[int, dict[str, Any]] = {}
    for step, point in ends.values():
        if step not in held:
            held[step] = scored(search.engine, genome.recipe(point), held_out)
    found = {name: {**held[step], "step": step} for name, (step, _) in ends.items()}
    return {
        "variant": search.variant.name,
        "parameters": len(genome.space),
        "asked": search.asked,
        "steps": search.ascent.step,
        "seconds_a_step": search.seconds / search.ascent.step,
        "distance": search.ascent.distance,
        "rows": rows,
        "held_out": found,
        "offered": found.get(search.variant.by, found["last"]),
    }


def scored(engine: GradientEngine, recipe: MergeRecipe, exam: QuestionSet) -> dict[str, Any]:
    engine.load(recipe)
    scores = exam.evaluate(engine)
    return {
        "value": scores.value,
        "error": scores.error,
        "soft": scores.soft,
        "tasks": {name: task.mean for name, task in scores.tasks.items()},
    }


def opened(file: Path, variant: Variant, device: str) -> tuple[Setup, GradientEngine]:
    config = load_config(file)
    fields: dict[str, Any] = {}
    if variant.granularity >= 0:
        fields["layer_granularity"] = variant.granularity
    if variant.filters:
        fields["filters"] = tuple(variant.filters.split("+"))
    if variant.method:
        fields["merge_method"] = variant.method
    genome = config.genome.model_copy(update=fields)
    setup = build(config.model_copy(update={"genome": genome}), check_values=False)
    return setup, start_engine(setup, device, variant.step, bool(variant.recompute))


def start_engine(
    setup: Setup, device: str, step: float = 0.02, recompute: bool = True
) -> GradientEngine:
    """Start an engine, with the sources on the GPU if there is one; `step` is as in `Variant`."""
    cuda = device.startswith("cuda")
    store = Resident(setup.sources, torch.device(device)) if cuda else None
    steps = {name.split("/")[-1]: step * (r.high - r.low) for name, r in setup.genome.space.items()}
    how = ("bfloat16", 65536) if cuda else ("float32", 4096)
    return GradientEngine(setup.sources, steps, device, *how, store=store, recompute=recompute)


def told(row: Mapping[str, Any], seed: int) -> str:
    """A result in a few lines."""
    curve = "  ".join(
        f"{r['step']}: {r['loss']:.3f} {r['kept_loss']:.3f} {r.get('kept', float('nan')):.3f}"
        + (f" {r['held_out']:.4f}" if "held_out" in r else "")
        for r in row["rows"]
    )
    held = "  ".join(
        f"{name} {h['value']:.4f} (step {h['step']})" for name, h in row["held_out"].items()
    )
    tasks = " ".join(f"{name} {value:.3f}" for name, value in row["offered"]["tasks"].items())
    return (
        f"{row['variant']} seed {seed}: {row['parameters']} numbers, {row['asked']} questions, "
        f"{row['steps']} steps, {row['seconds_a_step']:.3f} s a step\n"
        f"  step: loss, loss kept out, score kept out, held-out: {curve}\n"
        f"  held-out, chosen by: {held} +- {row['offered']['error']:.4f} ({tasks})"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("variants", nargs="*", default=[""])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    for place, text in enumerate(given.variants):
        variant = Variant.of(text)
        setup, engine = opened(given.file, variant, given.device)
        for baseline in setup.genome.baselines() if given.baselines and not place else ():
            row = scored(engine, baseline.recipe, setup.held_out)
            tasks = " ".join(f"{name} {value:.3f}" for name, value in row["tasks"].items())
            value = f"{row['value']:.4f} +- {row['error']:.4f} ({tasks})"
            print(f"{baseline.name}: held-out {value}", flush=True)
        for seed in given.seeds:
            search = Search(setup, engine, variant, seed, variant.questions or given.questions)
            row = searched(search, setup.held_out, given.curve)
            print(told(row, seed), flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps({**row, "seed": seed}) + "\n")
        engine.close()


if __name__ == "__main__":
    main()
