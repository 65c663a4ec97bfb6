"""Pack token sequences into one row without padding, with common prefixes stored once.

The row is a depth-first traversal of the tree of prefixes: each segment of tokens is followed by
all segments that continue it. Token q attends to token k if k <= q <= last[k], where last[k] is the
index of the last token that continues the segment of k. So one array describes the attention mask,
for prefixes nested to any depth. T: tokens of the row.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MIN_SHARED_TOKENS = 16
"""The minimum number of tokens of a shared segment; sharing fewer saves nothing."""


@dataclass(frozen=True)
class Row:
    """Token sequences that are packed into one."""

    tokens_T: Ints
    positions_T: Ints
    """The position of each token in its sequences."""
    last_T: Ints
    """The index of the last token that attends to each token."""
    paths: tuple[tuple[tuple[int, int], ...], ...]
    """For each segment of each sequence: its first position, and that token's index in the row."""

    def index(self, sequence: int, position: int) -> int:
        """Return the index in the row of the token at a position of a sequence."""
        start, at = next(s for s in reversed(self.paths[sequence]) if s[0] <= position)
        return at + position - start

    def padded(self, multiple: int) -> "Row":
        """Return the row, padded with tokens that attend only to themselves."""
        rest = -len(self.tokens_T) % multiple
        own = np.arange(len(self.tokens_T), len(self.tokens_T) + rest)
        return dataclasses.replace(
            self,
            tokens_T=np.append(self.tokens_T, np.zeros_like(own)),
            positions_T=np.append(self.positions_T, np.zeros_like(own)),
            last_T=np.append(self.last_T, own),
        )


def pack(sequences: Sequence[tuple[int, ...]], min_shared: int = MIN_SHARED_TOKENS) -> Row:
    """Pack sequences; segments of at least `min_shared` common tokens are stored once."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    tree = _Packer(sequences, order, min_shared)
    tree.visit(0, len(order), 0)
    return Row(
        np.concatenate(tree.tokens),
        np.concatenate(tree.positions),
        np.concatenate(tree.last),
        tuple(tuple(tree.paths[i]) for i in range(len(sequences))),
    )


class _Packer:
    def __init__(
        self, sequences: Sequence[tuple[int, ...]], order: Sequence[int], min_shared: int
    ) -> None:
        self.sequences, self.order, self.least = sequences, order, min_shared
        pairs = itertools.pairwise(order)
        self.common = [_common_length(sequences[a], sequences[b]) for a, b in pairs]
        """The number of leading tokens that adjacent sequences of the order have in common."""
        self.tokens: list[Ints] = []
        self.positions: list[Ints] = []
        self.last: list[Ints] = []
        self.paths: dict[int, list[tuple[int, int]]] = {i: [] for i in order}
        self.count = 0

    def visit(self, first: int, stop: int, depth: int) -> None:
        """Append the sequences order[first:stop] to the row, from the position `depth` on."""
        while first < stop:
            end, shared = first + 1, len(self.sequences[self.order[first]])
            while end < stop and self.common[end - 1] - depth >= self.least:
                shared, end = min(shared, self.common[end - 1]), end + 1
            part = np.array(self.sequences[self.order[first]][depth:shared], np.int64)
            start, index = self.count, len(self.last)
            self.tokens.append(part)
            self.positions.append(np.arange(depth, shared))
            self.last.append(part)
            self.count += len(part)
            for i in self.order[first:end]:
                self.paths[i].append((depth, start))
            longer = next(
                (j for j in range(first, end) if len(self.sequences[self.order[j]]) > shared), end
            )
            self.visit(longer, end, shared)
            self.last[index] = np.full(len(part), self.count - 1)
            first = end


def _common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    left, right = np.array(a[:most]), np.array(b[:most])
    return int((left != right).argmax())
