"""Ways of asking a generation's trials, from their stored answers: replay.py weighs them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from objectives.sampling import Floats


@dataclass(frozen=True)
class Task:
    """One task's answers of a generation's trials, and of the generation before."""

    weight: float
    right_TQ: Floats
    soft_TQ: Floats
    before_right_TQ: Floats
    before_soft_TQ: Floats

    def ranked(self, soft: float) -> tuple[Floats, Floats]:
        return (
            soft * self.soft_TQ + (1 - soft) * self.right_TQ,
            soft * self.before_soft_TQ + (1 - soft) * self.before_right_TQ,
        )


@dataclass(frozen=True)
class Generation:
    tasks: Sequence[Task]
    truth_T: Floats
    """Held-out scores."""
    sampled: Callable[..., tuple[Floats, float]]
    """Estimates with a share of the questions, a share of soft scores, and a seed."""

    @property
    def questions(self) -> int:
        return sum(task.right_TQ.shape[1] for task in self.tasks)


Way = Callable[[Generation, np.random.Generator], tuple[Floats, float]]
"""What the trials would have scored, and questions asked a trial."""


def whole(soft: float) -> Way:
    def ask(g: Generation, _: np.random.Generator) -> tuple[Floats, float]:
        return sum(t.weight * t.ranked(soft)[0].mean(axis=1) for t in g.tasks), g.questions

    return ask


def subset(share: float, soft: float) -> Way:
    """The same questions for all, taken at random."""

    def ask(g: Generation, rng: np.random.Generator) -> tuple[Floats, float]:
        total, asked = np.zeros(len(g.truth_T)), 0
        for task in g.tasks:
            count = max(1, round(share * task.right_TQ.shape[1]))
            picked = rng.permutation(task.right_TQ.shape[1])[:count]
            total += task.weight * task.ranked(soft)[0][:, picked].mean(axis=1)
            asked += count
        return total, asked

    return ask


def scheduled(share: float, soft: float) -> Way:
    def ask(g: Generation, rng: np.random.Generator) -> tuple[Floats, float]:
        values_T, asked = g.sampled(share, soft, int(rng.integers(1 << 31)))
        return values_T, asked

    return ask


def raced(z: float, soft: float, share: float, blocks: int) -> Way:
    def ask(g: Generation, rng: np.random.Generator) -> tuple[Floats, float]:
        return g.sampled(share, soft, int(rng.integers(1 << 31)), blocks, z)

    return ask


def halved(first: float, keep: float, soft: float, share: float = 1.0) -> Way:
    """All trials are asked a first part, the better of them the rest too. Needs all of a
    generation to wait for each other half way."""

    def ask(g: Generation, rng: np.random.Generator) -> tuple[Floats, float]:
        early, late, counts = 0.0, 0.0, np.zeros(2)
        for task in g.tasks:
            ranked_TQ, _ = task.ranked(soft)
            order = rng.permutation(ranked_TQ.shape[1])[: round(share * ranked_TQ.shape[1])]
            count = max(2, round(first * len(order)))
            early = early + task.weight * ranked_TQ[:, order[:count]].mean(axis=1)
            late = late + task.weight * ranked_TQ[:, order].mean(axis=1)
            counts += (count, len(order))
        kept = np.argsort(-early, kind="stable")[: math.ceil(keep * len(early))]
        values_T = early - 10.0
        values_T[kept] = late[kept]
        return values_T, float(counts[0] + keep * (counts[1] - counts[0]))

    return ask


WAYS: dict[str, Way] = {
    "all questions, accuracy": whole(0.0),
    "all questions, half soft": whole(0.5),
    "all questions, soft": whole(1.0),
    **{f"random {s:.0%}, accuracy": subset(s, 0.0) for s in (0.1, 0.25, 0.5)},
    **{f"random {s:.0%}, soft": subset(s, 1.0) for s in (0.1, 0.25, 0.5)},
    **{f"scheduled {s:.0%}, accuracy": scheduled(s, 0.0) for s in (0.1, 0.25, 0.5)},
    **{f"scheduled {s:.0%}, half soft": scheduled(s, 0.5) for s in (0.1, 0.25, 0.5)},
    **{f"scheduled {s:.0%}, soft": scheduled(s, 1.0) for s in (0.05, 0.1, 0.25, 0.5)},
    **{
        f"raced at {z} errors, {blocks} blocks, {name} of {share:.0%}": raced(
            z, soft, share, blocks
        )
        for name, soft, share in (("accuracy", 0.0, 1.0), ("soft", 1.0, 1.0), ("soft", 1.0, 0.25))
        for blocks, z in ((8, 1.0), (8, 0.5), (8, 0.25), (4, 0.5), (4, 0.25), (4, 0.0), (2, 0.0))
    },
    "halved after 50%, soft": halved(0.5, 0.5, 1.0),
    "halved after 25%, soft": halved(0.25, 0.5, 1.0),
    "halved after 50%, soft, of 25%": halved(0.5, 0.5, 1.0, 0.25),
}
