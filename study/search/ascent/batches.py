"""The batch of questions of each step of a search by gradient.

The questions of a batch are divided among the tasks in proportion to their shares in the objective,
with at least one for each task. A task's questions are all used before one is used again. The order
within an epoch is that of hashes of the seed and the question ids, so a batch depends only on the
questions, the seed and the step.

T: tasks, Q: questions of a task.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_QUESTIONS = 1
"""The minimum number of questions of a task in a batch."""


@dataclass(frozen=True)
class Item:
    """A question of a batch."""

    task: int
    question: int
    """The index of the question in its task."""
    weight: float
    """The factor of its loss; the weighted sum over a batch estimates the loss on all questions."""


class Batches:
    """The batches of an ascent. `at(step)` does not depend on earlier calls."""

    def __init__(
        self,
        ids_TQ: Sequence[Sequence[int]],
        shares_TQ: Sequence[Sequence[float]],
        size: int,
        seed: int,
    ) -> None:
        """Create the batches of one ascent.

        `ids_TQ` are the ids of the questions; `shares_TQ` are their shares in the objective, in
        absolute value, which add up to 1. `size` is the number of questions in a batch; more are
        used if there are more tasks.
        """
        self._ids_TQ, self._shares_TQ, self._seed = ids_TQ, shares_TQ, seed
        self._counts_T = _allocate([math.fsum(shares_Q) for shares_Q in shares_TQ], size)
        self._order = functools.cache(self._epoch_order)

    @property
    def size(self) -> int:
        """The number of questions in a batch."""
        return sum(self._counts_T)

    def at(self, step: int) -> tuple[Item, ...]:
        """Return the batch of a step, counted from 0."""
        items = []
        for task, count in enumerate(self._counts_T):
            total = len(self._ids_TQ[task])
            for place in range(step * count, (step + 1) * count):
                question = self._order(task, place // total)[place % total]
                weight = self._shares_TQ[task][question] * total / count
                items.append(Item(task, question, weight))
        return tuple(items)

    def _epoch_order(self, task: int, epoch: int) -> tuple[int, ...]:
        """Return the indices of a task's questions in the order of one epoch."""

        def key(question: int) -> bytes:
            text = f"{self._seed} {task} {epoch} {self._ids_TQ[task][question]} {question}"
            return hashlib.blake2b(text.encode(), digest_size=16).digest()

        return tuple(sorted(range(len(self._ids_TQ[task])), key=key))


def _allocate(shares_T: Sequence[float], size: int) -> tuple[int, ...]:
    """Return the number of questions of each task, by the largest remainder method."""
    exact_T = [round(share * size, 9) for share in shares_T]
    counts_T = [max(MIN_QUESTIONS, int(exact)) for exact in exact_T]
    rest = sorted(range(len(exact_T)), key=lambda t: int(exact_T[t]) - exact_T[t])
    for task in rest[: max(0, size - sum(counts_T))]:
        counts_T[task] += 1
    return tuple(counts_T)
