"""Search by gradient, apart from any database: what a study of the same file would reach.

    python benchmarks/gradient_search.py STUDY.yaml [VARIANT ...] [--seeds 0 1 2] [--device cuda]
        [--questions 20000] [--baselines] [--out OUT.jsonl]

A VARIANT is settings joined by commas, each over the default, such as
`granularity=1,filters=self_attn+mlp,lr=0.03,loss=all`. Adam climbs on the numbers as shares of
their ranges. A part of the search questions stays out of the batches; the checkpoint that is best
on it is the one offered, and is then asked the held-out questions. A question in a batch counts
three times, its way back as two more, and one of the part kept out once.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.derivatives.slots import RecipeGradient
from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.lessons import Lesson, Loss
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Resident
from objectives.scoring import Exam, Scores
from objectives.tasks.targets import chances, kept_out, lessons
from study.config.load import load_config
from study.search.genome import Genome
from study.setup.setup import Setup, build

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """One way to search."""

    name: str
    granularity: int | None = None
    filters: str = ""
    loss: str = "all"
    temperature: float = 1.0
    lr: float = 0.03
    batch: int = 96
    step: float = 0.02
    """How far a number is moved for its derivative, as a share of its range."""
    kept: float = 0.2
    """Of the search questions, what stays out of the batches."""
    every: int = 4
    """Steps from one checkpoint to the next."""
    by: str = "soft"
    """What the checkpoints are compared by: score, soft (probability of right answers) or loss; or
    `last` or `mean` (of the second half of the points), which compare nothing."""
    pull: float = 0.0
    """Strength of the square of the distance from the start, a share of a range at a time."""
    start: float = math.nan
    """Every weight's value, for another start than the space's."""
    average: float = 0.0
    """Of the earlier mean of the steps' points, what each step keeps; 0 offers the points."""
    questions: int = 0
    beta2: float = 0.99
    method: str = ""
    decay: float = 0.5
    """The share of the budget after which the learning rate begins to fall to nothing."""

    @classmethod
    def of(cls, text: str) -> "Variant":
        fields: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            kind = cls.__annotations__[key]
            fields[key] = (
                value if kind is str else int(value) if "int" in str(kind) else float(value)
            )
        return cls(text or "default", **fields)


class Space:
    """A genome's numbers as shares of their ranges."""

    def __init__(self, genome: Genome) -> None:
        self.genome, self.names = genome, list(genome.space)
        ranges = [genome.space[name] for name in self.names]
        self.low = np.array([r.low for r in ranges])
        self.width = np.array([r.high - r.low for r in ranges])
        begin = [(r.low + r.high) / 2 if r.start is None else r.start for r in ranges]
        self.start = (np.array(begin) - self.low) / self.width

    def steps(self, share: float) -> dict[str, float]:
        """Each parameter's step, in its own units."""
        return {
            name.split("/")[-1]: share * width
            for name, width in zip(self.names, self.width, strict=True)
        }

    def recipe(self, x: Doubles) -> MergeRecipe:
        values = self.low + np.clip(x, 0, 1) * self.width
        return self.genome.recipe(dict(zip(self.names, values.tolist(), strict=True)))

    def gradient(self, slopes: RecipeGradient) -> Doubles:
        """By the shares, in the order of the genotype: K, M, F, P, then those shared, then lambda.
        Bounds are above 0 here, so no sign is dropped and no density clamped."""
        of_models = [slopes.values[p.name] for p in self.genome._of_models]
        of_all = [slopes.shared[p.name] for p in self.genome._of_all]
        flat = [np.stack(part, axis=-1).ravel() for part in (of_models, of_all) if part]
        whole = np.concatenate([*flat, [slopes.scale] if "lambda" in self.names else []])
        return whole * self.width


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1, within 0 to 1; the gradient's size is not clipped, since
    each number's step is its own."""

    x: Doubles
    beta1: float = 0.9
    beta2: float = 0.99
    count: int = 0

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.x), np.zeros_like(self.x)

    def step(self, gradient: Doubles, lr: float) -> None:
        self.count += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient**2
        mean = self.mean / (1 - self.beta1**self.count)
        root = np.sqrt(self.square / (1 - self.beta2**self.count))
        self.x = np.clip(self.x - lr * mean / (root + 1e-12), 0, 1)


class Search:
    """One ascent."""

    def __init__(
        self, setup: Setup, engine: GradientEngine, variant: Variant, seed: int, budget: int
    ) -> None:
        self.engine, self.variant, self.budget = engine, variant, budget
        self.space, self.rng = Space(setup.genome), np.random.default_rng(seed)
        parts = [kept_out(task.questions, variant.kept) for task in setup.search.tasks]
        tokenizer = setup.search.tokenizer
        self.kept = Exam(
            [t.only(out) for t, (_, out) in zip(setup.search.tasks, parts, strict=True)], tokenizer
        )
        self.read = Exam(
            [t.only(inside) for t, (inside, _) in zip(setup.search.tasks, parts, strict=True)],
            tokenizer,
        )
        self.lessons = _lessons(self.read)
        self.chances = np.concatenate([np.array(c) for c in chances(self.read.tasks)])
        self.kept_lessons = _lessons(self.kept)
        parts_Q = chances(self.kept.tasks) if self.kept_lessons else []
        self.kept_shares = [share for task in parts_Q for share in task]
        self.loss = Loss(variant.loss, variant.temperature)  # type: ignore[arg-type]
        self.asked, self.seconds = 0, 0.0

    def run(self) -> Iterator[tuple[int, float, Doubles]]:
        """Step after step: how many, the batch's loss, and the point."""
        v = self.variant
        x = self.space.start.copy()
        if not math.isnan(v.start):
            weights = np.array([name.endswith("/weight") for name in self.space.names])
            x[weights] = ((v.start - self.space.low) / self.space.width)[weights]
        start, mean = x.copy(), x.copy()
        adam = Adam(x, beta2=v.beta2)
        checks = self.kept.questions / v.every
        total = int(self.budget / (3 * v.batch + checks))
        for count in range(1, total + 1):
            batch = self.rng.choice(len(self.lessons), v.batch, replace=False, p=self.chances)
            began = time.perf_counter()
            step = self.engine.step(
                self.space.recipe(adam.x), [self.lessons[i] for i in batch], loss=self.loss
            )
            self.seconds += time.perf_counter() - began
            gradient = self.space.gradient(step.gradient) + 2 * v.pull * (adam.x - start)
            fall = min(1.0, (1 - (count - 1) / total) / (1 - v.decay)) if v.decay < 1 else 1.0
            adam.step(gradient, v.lr * fall)
            mean = v.average * mean + (1 - v.average) * adam.x
            self.asked += 3 * v.batch
            yield count, float(np.mean(step.losses_Q)), mean if v.average else adam.x

    def check(self, x: Doubles) -> tuple[Scores, float]:
        """Scores of the part kept out, and its loss."""
        self.engine.load(self.space.recipe(x))
        self.asked += self.kept.questions
        losses = self.engine.losses(self.kept_lessons, self.loss)
        return self.kept.ask(self.engine), float(np.dot(losses, self.kept_shares))


def _lessons(exam: Exam) -> list[Lesson]:
    return [
        lesson
        for task, prompts_Q in zip(exam.tasks, exam.prompts_of_tasks, strict=True)
        for lesson in lessons(task, prompts_Q, exam.tokenizer)
    ]


def searched(search: Search, held_out: Exam) -> dict[str, Any]:
    """Run one search; what its checkpoints scored on the part kept out, and the one offered on the
    held-out questions."""
    v, points, rows, late = search.variant, [], [], []
    for count, loss, x in search.run():
        late = [*late[-max(1, count // 2) :], x.copy()]
        last = x.copy()
        if search.kept_lessons and (count % v.every == 0 or count == 1):
            scores, kept_loss = search.check(x)
            points.append(last)
            rows.append(
                {
                    "step": count,
                    "asked": search.asked,
                    "loss": loss,
                    "kept": scores.value,
                    "kept_soft": scores.soft,
                    "kept_loss": kept_loss,
                }
            )
    worth = {
        "score": [row["kept"] for row in rows],
        "soft": [row["kept_soft"] for row in rows],
        "loss": [-row["kept_loss"] for row in rows],
    }
    ends = {name: points[int(np.argmax(values))] for name, values in worth.items() if values}
    ends |= {"last": last, "mean": np.mean(late, axis=0)}
    held: dict[str, Any] = {}
    for name, x in ends.items():
        step = next((r["step"] for r, p in zip(rows, points, strict=True) if p is x), count)
        same = next((held[n] for n, p in ends.items() if p is x and n in held), None)
        held[name] = same or scored(search.engine, search.space.recipe(x), held_out)
        held[name] = {**held[name], "step": step}
    return {
        "variant": v.name,
        "parameters": len(search.space.names),
        "asked": search.asked,
        "steps": count,
        "seconds_a_step": search.seconds / count,
        "rows": rows,
        "held_out": held,
        "offered": held[v.by if v.by in held else "last"],
    }


def scored(engine: GradientEngine, recipe: MergeRecipe, exam: Exam) -> dict[str, Any]:
    engine.load(recipe)
    scores = exam.ask(engine)
    return {
        "value": scores.value,
        "error": scores.error,
        "soft": scores.soft,
        "tasks": {name: task.mean for name, task in scores.tasks.items()},
    }


def opened(file: Path, variant: Variant, device: str) -> tuple[Setup, GradientEngine]:
    config = load_config(file)
    fields: dict[str, Any] = {}
    if variant.granularity is not None:
        fields["layer_granularity"] = variant.granularity
    if variant.filters:
        fields["filters"] = tuple(variant.filters.split("+"))
    if variant.method:
        fields["merge_method"] = variant.method
    genome = config.genome.model_copy(update=fields)
    setup = build(config.model_copy(update={"genome": genome}), check_values=False)
    import torch

    cuda = device.startswith("cuda")
    store = Resident(setup.sources, torch.device(device)) if cuda else None
    engine = GradientEngine(
        setup.sources,
        Space(setup.genome).steps(variant.step),
        device,
        "bfloat16" if cuda else "float32",
        16384 if cuda else 4096,
        store=store,
    )
    return setup, engine


def told(row: Mapping[str, Any], seed: int) -> str:
    """A result in a few lines."""
    shown = row["rows"][::3] + row["rows"][-1:]
    curve = "  ".join(f"{r['step']}: {r['kept']:.3f}/{r['kept_loss']:.3f}" for r in shown)
    held = "  ".join(
        f"{name} {h['value']:.4f} (step {h['step']})" for name, h in row["held_out"].items()
    )
    tasks = " ".join(f"{name} {value:.3f}" for name, value in row["offered"]["tasks"].items())
    return (
        f"{row['variant']} seed {seed}: {row['parameters']} numbers, {row['asked']} questions, "
        f"{row['steps']} steps, "
        f"{row['seconds_a_step']:.3f} s a step\n  kept out, score/loss: {curve}\n"
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
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    for place, text in enumerate(given.variants):
        variant = Variant.of(text)
        setup, engine = opened(given.file, variant, given.device)
        if given.baselines and not place:
            for baseline in setup.genome.baselines():
                row = scored(engine, baseline.recipe, setup.held_out)
                print(
                    f"{baseline.name}: held-out {row['value']:.4f} +- {row['error']:.4f}",
                    flush=True,
                )
        for seed in given.seeds:
            search = Search(setup, engine, variant, seed, variant.questions or given.questions)
            row = searched(search, setup.held_out)
            print(told(row, seed), flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps({**row, "seed": seed}) + "\n")
        engine.close()


if __name__ == "__main__":
    main()
