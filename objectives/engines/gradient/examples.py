"""Tokenized questions as training examples, and the losses on them.

An example has alternatives: possible answers, of which at least one is right. The score of an
alternative is the sum of the log-probabilities of its targets, divided by its length. Q: examples,
A: alternatives of an example, N: targets (of all examples, or of one alternative), R: tokens of a
target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["all", "options"]


@dataclass(frozen=True)
class Target:
    """A position in a sequence, and the tokens any of which is right there."""

    position: int
    """The index of the preceding token in the sequence."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Alternative:
    """A possible answer. Its score is the sum of its targets' log-probabilities over `length`."""

    sequence: int
    """The index of the example's sequence that contains the answer."""
    targets: tuple[Target, ...]
    right: bool
    length: float = 1.0


@dataclass(frozen=True)
class Example:
    """One question as a training example."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids; each sequence ends with the token that precedes its last target."""
    alternatives: tuple[Alternative, ...]
    maximized: bool = True
    """False if the task's weight is negative, so that right answers should become less likely."""

    @property
    def tokens(self) -> int:
        """The number of tokens to read."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Loss:
    """The generalized cross-entropy of the right answer (Zhang and Sabuncu 2018), (1 - p^q) / q.

    p is the probability of the right alternatives: among all texts if `kind` is `all`, else among
    the example's alternatives, which is the softmax of their scores divided by `temperature`. A
    example with a single alternative always uses `all`; among the alternatives its p would be 1.

    With q = 0 the loss is -log p, which has no upper bound, so a few answers that are far from
    right can outweigh all others. With q = 1 it is 1 - p, the expected error. The loss of an
    example that is not maximized is p, because log p has no lower bound.
    """

    kind: Kind = "all"
    q: float = 0.0
    temperature: float = 1.0

    def of(self, scores_QA: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return the loss of each example, [Q]. A score of -inf is padding."""
        right_QA = _right(scores_QA, examples)
        logp_Q = scores_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
        maximized_Q = _mask([example.maximized for example in examples], scores_QA)
        minimized_Q = logp_Q.exp()
        if self.kind == "options":
            single_Q = _mask([len(example.alternatives) == 1 for example in examples], scores_QA)
            tempered_QA = scores_QA / self.temperature
            among_Q = tempered_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1)
            among_Q = among_Q - tempered_QA.logsumexp(dim=1)
            logp_Q = torch.where(single_Q, logp_Q, among_Q)
        loss_Q = -torch.expm1(self.q * logp_Q) / self.q if self.q else -logp_Q
        return torch.where(maximized_Q, loss_Q, minimized_Q)


def probabilities(scores_QA: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return the probability of the right alternatives of each example, [Q].

    The probability of an alternative with a length is its geometric mean per unit of length.
    """
    right_QA = _right(scores_QA, examples)
    return scores_QA.masked_fill(~right_QA, -torch.inf).logsumexp(dim=1).exp()


def _right(scores_QA: Tensor, examples: Sequence[Example]) -> Tensor:
    right_QA = torch.zeros(scores_QA.shape, dtype=torch.bool)
    for q, example in enumerate(examples):
        for a, alternative in enumerate(example.alternatives):
            right_QA[q, a] = alternative.right
    return right_QA.to(scores_QA.device)


def _mask(values: Sequence[bool], like: Tensor) -> Tensor:
    return torch.tensor(list(values), device=like.device)


@dataclass(frozen=True)
class Gathering:
    """Computes the scores of alternatives from rows of log-probabilities.

    Arrays are padded; the masks `tokens_valid_NR` and `targets_valid_QAN` are False for padding.
    """

    rows_N: Tensor
    """The row of log-probabilities of each target."""
    tokens_NR: Tensor
    tokens_valid_NR: Tensor
    targets_QAN: Tensor
    """Indices of the targets of each alternative."""
    targets_valid_QAN: Tensor
    lengths_QA: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], rows: Sequence[int], device: str) -> "Gathering":
        """Return the indices for examples; `rows` are the rows of their targets, in order."""
        targets = [m for example in examples for a in example.alternatives for m in a.targets]
        widest = max(len(target.tokens) for target in targets)
        tokens = [
            [*target.tokens, *target.tokens[:1] * (widest - len(target.tokens))]
            for target in targets
        ]
        tokens_valid = [[i < len(target.tokens) for i in range(widest)] for target in targets]
        A = max(len(example.alternatives) for example in examples)
        N = max(len(a.targets) for example in examples for a in example.alternatives)
        indices = torch.zeros(len(examples), A, N, dtype=torch.int64)
        valid, lengths = torch.zeros(indices.shape, dtype=torch.bool), torch.ones(len(examples), A)
        count = 0
        for q, example in enumerate(examples):
            for a, alternative in enumerate(example.alternatives):
                n = len(alternative.targets)
                indices[q, a, :n] = torch.arange(count, count + n)
                valid[q, a, :n], lengths[q, a], count = True, alternative.length, count + n
        tensors = torch.tensor(list(rows)), torch.tensor(tokens), torch.tensor(tokens_valid)
        return cls(*(t.to(device) for t in (*tensors, indices, valid, lengths)))

    def scores(self, logprobs: Tensor) -> Tensor:
        """Return the scores, [Q, A], from log-probabilities of shape [rows, vocabulary]; -inf for
        padding."""
        each_NR = logprobs[self.rows_N[:, None], self.tokens_NR]
        each_N = each_NR.masked_fill(~self.tokens_valid_NR, -torch.inf).logsumexp(dim=1)
        summed_QA = torch.where(self.targets_valid_QAN, each_N[self.targets_QAN], 0.0).sum(dim=2)
        absent_QA = ~self.targets_valid_QAN.any(dim=2)
        return (summed_QA / self.lengths_QA).masked_fill(absent_QA, -torch.inf)
