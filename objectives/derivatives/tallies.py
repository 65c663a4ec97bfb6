"""Tables of the L1 norm of a model's delta under DARE's mask, for every density.

They do not depend on the parameters that are searched, so each is computed once, on the device of
the tensors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.merge import exact_sums as sums
from objectives.merge import masks

_BINS = 1 << 16
Table = tuple[NDArray[np.int64], float]
MaskKey = tuple[int, str, str]
"""The seed, the model and the tensor name that a Philox key is derived from."""


class NormTables:
    """A cache of tables of L1 norms, by seed, model and tensor name."""

    def __init__(self, tables: dict[MaskKey, Table] | None = None) -> None:
        """Create a cache in `tables`, which may be shared with other users."""
        self.tables = {} if tables is None else tables

    def table(self, key: MaskKey, base: Tensor, model: Tensor) -> Table:
        """Return L1 norms of `model - base` by random draw, int64, [65537], and their quantum.

        Entry t is the norm, in quanta, of the elements whose draw is below t.
        """
        if key not in self.tables:
            quantum = sums.quantum(model.float() - base.float())
            philox_key = masks.key(*key)
            if base.is_cuda:
                from objectives.merge import kernels

                low, high = philox_key
                word = low | high << 32
                signed = word - (1 << 64) if word >> 63 else word
                table = kernels.tally(base, model, signed, quantum).numpy()
            else:
                table = _table(base, model, philox_key, quantum)
            self.tables[key] = table, quantum
        return self.tables[key]


def _table(
    base: Tensor, model: Tensor, philox_key: tuple[int, int], quantum: float
) -> NDArray[np.int64]:
    delta = model.float() - base.float()
    quanta = (delta.abs().double() * (1 / quantum)).to(torch.int64).flatten()
    draws = masks.draws(philox_key, delta.shape).flatten().to(torch.int64)
    bins = torch.zeros(_BINS, dtype=torch.int64).index_add_(0, draws, quanta)
    table: NDArray[np.int64] = torch.cat([bins.new_zeros(1), bins.cumsum(0)]).numpy()
    return table
