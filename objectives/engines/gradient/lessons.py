"""What questions ask a model to learn, in tokens, and the losses there are.

A lesson has alternatives, texts that a model could say, of which some are right; it scores each by
the log-probabilities of its tokens. Q: lessons, A: alternatives, N: marks, R: tokens of a mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["all", "options", "sharp", "probability"]


@dataclass(frozen=True)
class Mark:
    """A place in a sequence, and the tokens of which any may come next."""

    position: int
    """Of the token before, from the sequence's start."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Alternative:
    """One text: the log-probabilities of its marks, added, over `length`."""

    sequence: int
    """Among the lesson's."""
    marks: tuple[Mark, ...]
    right: bool
    length: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """What one question asks a model to learn."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids to read, each up to the last token before a mark."""
    alternatives: tuple[Alternative, ...]
    rising: bool = True
    """False where the task's weight is negative: right answers are then to become rarer."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Loss:
    """How a lesson's alternatives become a loss.

    `all`: -log of the right alternatives' probability among all texts; `options`: among the
    lesson's alternatives, with scores over `temperature`; `sharp`: less that probability itself;
    `probability`: less the probability among all texts. A lesson with one alternative has nothing
    to compare it with and takes `all`, and one that is not rising `probability`, with the other
    sign, since -log p has no least value.
    """

    kind: Kind = "all"
    temperature: float = 1.0

    def of(self, scores_QA: Tensor, lessons: Sequence[Lesson]) -> Tensor:
        """Each lesson's, [Q]. The scores of alternatives that are not there are -inf."""
        device = scores_QA.device
        right_QA = torch.zeros(scores_QA.shape, dtype=torch.bool)
        for q, lesson in enumerate(lessons):
            for a, alternative in enumerate(lesson.alternatives):
                right_QA[q, a] = alternative.right
        one = torch.tensor([len(lesson.alternatives) == 1 for lesson in lessons])
        rising = torch.tensor([lesson.rising for lesson in lessons])
        right_QA, one, rising = (mask.to(device) for mask in (right_QA, one, rising))
        whole = scores_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
        found = -whole
        if self.kind in ("options", "sharp"):
            tempered = scores_QA / self.temperature
            among = tempered.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
            among = among - tempered.logsumexp(dim=1)
            found = torch.where(one, found, -among if self.kind == "options" else -among.exp())
        elif self.kind == "probability":
            found = torch.where(one, found, -whole.exp())
        return torch.where(rising, found, whole.exp())


@dataclass(frozen=True)
class Gathering:
    """Where the scores of some lessons' alternatives are in rows of log-probabilities."""

    rows_N: Tensor
    """The row of each mark."""
    tokens_NR: Tensor
    fits_NR: Tensor
    """False where a mark has no further token."""
    marks_QAN: Tensor
    """The marks of each alternative."""
    has_QAN: Tensor
    lengths_QA: Tensor
    is_QA: Tensor
    """False where a lesson has no further alternative."""

    @classmethod
    def of(cls, lessons: Sequence[Lesson], rows: Sequence[int], device: str) -> "Gathering":
        """`rows` holds the row of every mark, in the order of lessons, alternatives and marks."""
        marks = [m for lesson in lessons for a in lesson.alternatives for m in a.marks]
        widest = max(len(mark.tokens) for mark in marks)
        tokens = [[*mark.tokens, *mark.tokens[:1] * (widest - len(mark.tokens))] for mark in marks]
        fits = [[i < len(mark.tokens) for i in range(widest)] for mark in marks]
        A = max(len(lesson.alternatives) for lesson in lessons)
        N = max(len(a.marks) for lesson in lessons for a in lesson.alternatives)
        where = torch.zeros(len(lessons), A, N, dtype=torch.int64)
        has, lengths = torch.zeros(where.shape, dtype=torch.bool), torch.ones(len(lessons), A)
        count = 0
        for q, lesson in enumerate(lessons):
            for a, alternative in enumerate(lesson.alternatives):
                n = len(alternative.marks)
                where[q, a, :n] = torch.arange(count, count + n)
                has[q, a, :n], lengths[q, a], count = True, alternative.length, count + n
        arrays = torch.tensor(list(rows)), torch.tensor(tokens), torch.tensor(fits), where, has
        parts = [part.to(device) for part in (*arrays, lengths, has.any(dim=2))]
        return cls(*parts)

    def scores(self, logprobs: Tensor) -> Tensor:
        """[Q, A] from log-probabilities of shape [rows, vocabulary]; -inf where there is none."""
        each_NR = logprobs[self.rows_N[:, None], self.tokens_NR]
        each_N = each_NR.masked_fill(~self.fits_NR, -torch.inf).logsumexp(dim=1)
        summed_QA = torch.where(self.has_QAN, each_N[self.marks_QAN], 0.0).sum(dim=2)
        return (summed_QA / self.lengths_QA).masked_fill(~self.is_QA, -torch.inf)
