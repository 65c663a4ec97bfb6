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
    draws_M: Sequence[Tensor],
    numbers_V: Tensor,
    thresholds_V: Tensor,
    shares_V: Tensor,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> Tensor:
    """Return what `kernels.contract` returns, from the random draws of each model, not its keys.

    `draws_M` is empty if the method drops no elements.
    """
    slope = gradient.double().flatten()
    origin = 0.0 if base is None else base.float()
    deltas_M = [model.float() - origin for model in models_M]
    cache: dict[tuple[float, ...], Tensor] = {}
    rows = zip(numbers_V.tolist(), thresholds_V.tolist(), shares_V, strict=True)
    deltas_V = [
        merged_delta(
            _values(deltas_M, draws_M, *row[:2], trim, cache), row[0], row[2], elect, normalize
        )
        for row in rows
    ]
    pairs = zip(deltas_V[::2], deltas_V[1::2], strict=True)
    parts = [torch.dot(slope, (above - below).flatten().double()) for above, below in pairs]
    return torch.stack(parts) if parts else slope.new_zeros(0)


def _values(
    deltas_M: Sequence[Tensor],
    draws_M: Sequence[Tensor],
    numbers: Sequence[float],
    thresholds_M: Sequence[int],
    trim: bool,
    cache: dict[tuple[float, ...], Tensor],
) -> list[Tensor]:
    """Return the weighted delta of each model in one variant, after dropping and trimming.

    `cache` is a cache of these deltas, because the variants have most parameters in common.
    """
    M, values = len(deltas_M), []
    for m, delta in enumerate(deltas_M):
        key = (m, thresholds_M[m], *numbers[m : 3 * M : M])
        if key not in cache:
            value = delta
            if draws_M:
                value = torch.where(draws_M[m] < thresholds_M[m], value, 0.0) * numbers[M + m]
            if trim:
                value = torch.where(value.abs() >= numbers[2 * M + m], value, 0.0)
            cache[key] = numbers[m] * value
        values.append(cache[key])
    return values


def merged_delta(
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
        negative = total < 0
        total, subsets = torch.zeros_like(total), None
        for m, value in enumerate(values_M):
            oriented = torch.where(negative, -value, value)
            total += oriented.clamp_(min=0.0)
            if normalize:
                bits = (oriented > 0).long() << m
                subsets = bits if subsets is None else subsets + bits
        total = torch.where(negative, -total, total)
        if subsets is not None:
            total = total * shares[subsets]
    elif normalize:
        total = total / numbers[3 * len(values_M)]
    return numbers[3 * len(values_M) + 1] * total
