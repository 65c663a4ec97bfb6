"""What a model's deltas sum to by random draw: what DARE's masks leave, for every density.

It does not depend on what a search changes, and is counted once, on the device of the tensors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.merge import exact_sums as sums
from objectives.merge import masks

_BINS = 1 << 16
Table = tuple[NDArray[np.int64], float]
Place = tuple[int, str, str]
"""Seed, model and tensor name: what a Philox key is made of."""


class Tallies:
    """Tables of L1 sums by place."""

    def __init__(self, tables: dict[Place, Table] | None = None) -> None:
        """What others have counted already may be shared."""
        self.tables = {} if tables is None else tables

    def table(self, place: Place, base: Tensor, model: Tensor) -> Table:
        """L1 sums of `model - base` by draw, int64 of shape [65537], and the grain they count in.

        Entry t is the sum of the elements whose draw is below t."""
        if place not in self.tables:
            grain = sums.quantum(model.float() - base.float())
            key = masks.key(*place)
            if base.is_cuda:
                from objectives.merge import kernels

                low, high = key
                word = low | high << 32
                signed = word - (1 << 64) if word >> 63 else word
                table = kernels.tally(base, model, signed, grain).numpy()
            else:
                table = _table(base, model, key, grain)
            self.tables[place] = table, grain
        return self.tables[place]


def _table(base: Tensor, model: Tensor, key: tuple[int, int], grain: float) -> NDArray[np.int64]:
    delta = model.float() - base.float()
    grains = (delta.abs().double() * (1 / grain)).to(torch.int64).flatten()
    drawn = masks.draws(key, delta.shape).flatten().to(torch.int64)
    bins = torch.zeros(_BINS, dtype=torch.int64).index_add_(0, drawn, grains)
    table: NDArray[np.int64] = torch.cat([bins.new_zeros(1), bins.cumsum(0)]).numpy()
    return table
