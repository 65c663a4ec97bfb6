"""The arithmetic of derivative_kernels.py in plain torch: what a CPU runs, and the kernel's oracle.

P: numbers, V: their variants, the one above and the one below in turn; M: source models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def contract(
    gradient: Tensor,
    base: Tensor | None,
    models_M: Sequence[Tensor],
    drawn_M: Sequence[Tensor],
    numbers_V: Tensor,
    below_V: Tensor,
    shares_V: Tensor,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> Tensor:
    """As `derivative_kernels.contract`, with the random draws of each model in place of the keys;
    none of them where nothing is dropped."""
    slope = gradient.double()
    origin = 0.0 if base is None else base.float()
    deltas_M = [model.float() - origin for model in models_M]
    how = trim, elect, normalize
    ends = [
        change(deltas_M, drawn_M, numbers, below, shares, *how)
        for numbers, below, shares in zip(numbers_V, below_V, shares_V, strict=True)
    ]
    parts = [(slope * (a - b)).sum() for a, b in zip(ends[::2], ends[1::2], strict=True)]
    return torch.stack(parts) if parts else slope.new_zeros(0)


def change(
    deltas_M: Sequence[Tensor],
    drawn_M: Sequence[Tensor],
    numbers: Tensor,
    below_M: Tensor,
    shares: Tensor,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> Tensor:
    """What one variant adds to the base, float32."""
    M, values = len(deltas_M), []
    for m, delta in enumerate(deltas_M):
        value = delta
        if drawn_M:
            value = torch.where(drawn_M[m] < below_M[m], value, 0.0) * numbers[M + m]
        if trim:
            value = torch.where(value.abs() >= numbers[2 * M + m], value, 0.0)
        values.append(numbers[m] * value)
    total = torch.zeros_like(deltas_M[0])
    for value in values:
        total = total + value
    if elect:
        sign = torch.where(total >= 0, 1.0, -1.0)
        total, agreeing = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.int64)
        for m, value in enumerate(values):
            along = value * sign
            total = total + along.clamp(min=0.0)
            agreeing += (along > 0).long() << m
        total = total * sign
        if normalize:
            total = total * shares[agreeing]
    elif normalize:
        total = total / numbers[3 * M]
    return numbers[3 * M + 1] * total
