"""The arithmetic of kernels.py in PyTorch: used on CPUs, and the reference in tests of the kernel.

P: parameters, V: variants (for each parameter the one above, then the one below), M: source models
without the base.
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
    """Return what `kernels.contract` returns, from the random draws of each model, not its keys.

    `drawn_M` is empty if the method drops no elements.
    """
    slope = gradient.double().flatten()
    origin = 0.0 if base is None else base.float()
    deltas_M = [model.float() - origin for model in models_M]
    known: dict[tuple[float, ...], Tensor] = {}
    rows = zip(numbers_V.tolist(), below_V.tolist(), shares_V, strict=True)
    ends = [
        change(_values(deltas_M, drawn_M, *row[:2], trim, known), row[0], row[2], elect, normalize)
        for row in rows
    ]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    parts = [torch.dot(slope, (above - below).flatten().double()) for above, below in pairs]
    return torch.stack(parts) if parts else slope.new_zeros(0)


def _values(
    deltas_M: Sequence[Tensor],
    drawn_M: Sequence[Tensor],
    numbers: Sequence[float],
    below_M: Sequence[int],
    trim: bool,
    known: dict[tuple[float, ...], Tensor],
) -> list[Tensor]:
    """Return the weighted delta of each model in one variant, after dropping and trimming.

    `known` is a cache of these deltas, because the variants have most parameters in common.
    """
    M, values = len(deltas_M), []
    for m, delta in enumerate(deltas_M):
        place = (m, below_M[m], *numbers[m : 3 * M : M])
        if place not in known:
            value = delta
            if drawn_M:
                value = torch.where(drawn_M[m] < below_M[m], value, 0.0) * numbers[M + m]
            if trim:
                value = torch.where(value.abs() >= numbers[2 * M + m], value, 0.0)
            known[place] = numbers[m] * value
        values.append(known[place])
    return values


def change(
    values_M: Sequence[Tensor],
    numbers: Sequence[float],
    shares: Tensor,
    elect: bool,
    normalize: bool,
) -> Tensor:
    """Return the delta that one variant adds to the base, float32."""
    total = torch.zeros_like(values_M[0])
    for value in values_M:
        total = total + value
    if elect:
        falls = total < 0
        total, agreeing = torch.zeros_like(total), None
        for m, value in enumerate(values_M):
            along = torch.where(falls, -value, value)
            total += along.clamp_(min=0.0)
            if normalize:
                bits = (along > 0).long() << m
                agreeing = bits if agreeing is None else agreeing + bits
        total = torch.where(falls, -total, total)
        if agreeing is not None:
            total = total * shares[agreeing]
    elif normalize:
        total = total / numbers[3 * len(values_M)]
    return numbers[3 * len(values_M) + 1] * total
