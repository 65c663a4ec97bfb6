"""Tokenized questions as training examples, and the losses on them.

A lesson has alternatives: possible answers, of which at least one is right. The score of an
alternative is the sum of the log-probabilities of its marks, divided by its length. Q: lessons,
A: alternatives of a lesson, N: marks (of all lessons, or of one alternative), R: tokens of a mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["all", "options"]


@dataclass(frozen=True)
class Mark:
    """A position in a sequence, and the tokens any of which is right there."""

    position: int
    """The index of the preceding token in the sequence."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Alternative:
    """A possible answer. Its score is the sum of its marks' log-probabilities over `length`."""

    sequence: int
    """The index of the lesson's sequence that contains the answer."""
    marks: tuple[Mark, ...]
    right: bool
    length: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """One question as a training example."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids; each sequence ends with the token that precedes its last mark."""
    alternatives: tuple[Alternative, ...]
    rising: bool = True
    """False if the task's weight is negative, so that right answers should become less likely."""

    @property
    def tokens(self) -> int:
        """The number of tokens to read."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Loss:
    """The generalized cross-entropy of the right answer (Zhang and Sabuncu 2018), (1 - p^q) / q.

    p is the probability of the right alternatives: among all texts if `kind` is `all`, else among
    the lesson's alternatives, which is the softmax of their scores divided by `temperature`. A
    lesson with a single alternative always uses `all`; among the alternatives its p would be 1.

    With q = 0 the loss is -log p, which has no upper bound, so a few answers that are far from
    right can outweigh all others. With q = 1 it is 1 - p, the expected error. The loss of a lesson
    that is not rising is p, because log p has no lower bound.
    """

    kind: Kind = "all"
    q: float = 0.0
    temperature: float = 1.0

    def of(self, scores_QA: Tensor, lessons: Sequence[Lesson]) -> Tensor:
        """Return the loss of each lesson, [Q]. A score of -inf is padding."""
        right_QA = _right(scores_QA, lessons)
        logp_Q = scores_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
        rising_Q = _mask([lesson.rising for lesson in lessons], scores_QA)
        falling_Q = logp_Q.exp()
        if self.kind == "options":
            single_Q = _mask([len(lesson.alternatives) == 1 for lesson in lessons], scores_QA)
            tempered_QA = scores_QA / self.temperature
            among_Q = tempered_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
            among_Q = among_Q - tempered_QA.logsumexp(dim=1)
            logp_Q = torch.where(single_Q, logp_Q, among_Q)
        loss_Q = -torch.expm1(self.q * logp_Q) / self.q if self.q else -logp_Q
        return torch.where(rising_Q, loss_Q, falling_Q)


def probabilities(scores_QA: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Return the probability of the right alternatives of each lesson, [Q].

    The probability of an alternative with a length is its geometric mean per unit of length.
    """
    right_QA = _right(scores_QA, lessons)
    return scores_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1).exp()


def _right(scores_QA: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    right_QA = torch.zeros(scores_QA.shape, dtype=torch.bool)
    for q, lesson in enumerate(lessons):
        for a, alternative in enumerate(lesson.alternatives):
            right_QA[q, a] = alternative.right
    return right_QA.to(scores_QA.device)


def _mask(values: Sequence[bool], like: Tensor) -> Tensor:
    return torch.tensor(list(values), device=like.device)


@dataclass(frozen=True)
class Gathering:
    """Computes the scores of alternatives from rows of log-probabilities.

    Arrays are padded; the masks `tokens_valid_NR` and `marks_valid_QAN` are False for padding.
    """

    rows_N: Tensor
    """The row of log-probabilities of each mark."""
    tokens_NR: Tensor
    tokens_valid_NR: Tensor
    marks_QAN: Tensor
    """Indices of the marks of each alternative."""
    marks_valid_QAN: Tensor
    lengths_QA: Tensor

    @classmethod
    def of(cls, lessons: Sequence[Lesson], rows: Sequence[int], device: str) -> "Gathering":
        """Return the indices for lessons; `rows` are the rows of their marks, in order."""
        marks = [m for lesson in lessons for a in lesson.alternatives for m in a.marks]
        widest = max(len(mark.tokens) for mark in marks)
        tokens = [[*mark.tokens, *mark.tokens[:1] * (widest - len(mark.tokens))] for mark in marks]
        tokens_valid = [[i < len(mark.tokens) for i in range(widest)] for mark in marks]
        A = max(len(lesson.alternatives) for lesson in lessons)
        N = max(len(a.marks) for lesson in lessons for a in lesson.alternatives)
        indices = torch.zeros(len(lessons), A, N, dtype=torch.int64)
        valid, lengths = torch.zeros(indices.shape, dtype=torch.bool), torch.ones(len(lessons), A)
        count = 0
        for q, lesson in enumerate(lessons):
            for a, alternative in enumerate(lesson.alternatives):
                n = len(alternative.marks)
                indices[q, a, :n] = torch.arange(count, count + n)
                valid[q, a, :n], lengths[q, a], count = True, alternative.length, count + n
        tensors = torch.tensor(list(rows)), torch.tensor(tokens), torch.tensor(tokens_valid)
        return cls(*(t.to(device) for t in (*tensors, indices, valid, lengths)))

    def scores(self, logprobs: Tensor) -> Tensor:
        """Return the scores, [Q, A], from log-probabilities of shape [rows, vocabulary]; -inf for
        padding."""
        each_NR = logprobs[self.rows_N[:, None], self.tokens_NR]
        each_N = each_NR.masked_fill(~self.tokens_valid_NR, -torch.inf).logsumexp(dim=1)
        summed_QA = torch.where(self.marks_valid_QAN, each_N[self.marks_QAN], 0.0).sum(dim=2)
        absent_QA = ~self.marks_valid_QAN.any(dim=2)
        return (summed_QA / self.lengths_QA).masked_fill(absent_QA, -torch.inf)
