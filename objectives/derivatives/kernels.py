"""A Triton kernel that contracts gradients, in one pass over the tensors for all parameters.

P: parameters, V: variants (for each parameter the one above, then the one below), M: source models
without the base, N: elements of a tensor.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from objectives.merge.kernels import _draws, _flipped

BLOCK, WARPS = 1024, 4


def contract(
    gradient: Tensor,
    base: Tensor | None,
    models_M: Sequence[Tensor],
    keys: Tensor,
    numbers_V: Tensor,
    thresholds_V: Tensor,
    shares_V: Tensor,
    drop: bool,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> Tensor:
    """Return the sum of gradient * (merge above - merge below) for each parameter, float64, [P].

    The tensors are contiguous and of one shape. For each variant, `numbers_V`, float32 of shape
    [V, 3 M + 2], and `shares_V`, float32 of shape [V, 2**M], are the arguments `numbers` and
    `shares` of `objectives.merge.kernels.mix`. `thresholds_V`, int32 of shape [V, M], holds the
    draws below which an element is kept, and `keys`, int64 of shape [M], the Philox keys. Sums are
    float32 within a block of elements and float64 over blocks, in a fixed order, so the same
    arguments yield the same bits.
    """
    count, numbers = gradient.numel(), len(numbers_V) // 2
    blocks = triton.cdiv(count, BLOCK)
    sums = torch.empty(blocks, numbers, dtype=torch.float32, device=gradient.device)
    with torch.cuda.device_of(gradient):
        _contract[(blocks,)](
            sums,
            gradient,
            gradient if base is None else base,
            tuple(models_M),
            keys,
            numbers_V,
            thresholds_V,
            shares_V,
            count,
            numbers,
            M=len(models_M),
            HAS_BASE=base is not None,
            DROP=drop,
            TRIM=trim,
            ELECT=elect,
            NORMALIZE=normalize,
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return sums.sum(dim=0, dtype=torch.float64)


@triton.jit
def _merged_delta(
    deltas,
    draws,
    numbers,
    thresholds,
    shares,
    M: tl.constexpr,
    DROP: tl.constexpr,
    TRIM: tl.constexpr,
    ELECT: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Return the delta that a variant adds to the base: the arithmetic of `_mix` in float32."""
    total = tl.zeros_like(deltas[0])
    values = ()
    for m in tl.static_range(M):
        value = deltas[m]
        if DROP:
            value = tl.where(draws[m] < tl.load(thresholds + m), value, 0.0) * tl.load(
                numbers + M + m
            )
        if TRIM:
            value = tl.where(tl.abs(value) >= tl.load(numbers + 2 * M + m), value, 0.0)
        value = tl.load(numbers + m) * value
        total += value
        values = values + (value,)  # noqa: RUF005  # Triton does not support starred tuples
    if ELECT:
        elected = total.to(tl.int32, bitcast=True) & -0x80000000
        total = tl.zeros_like(deltas[0])
        subsets = tl.zeros_like(elected)
        for m in tl.static_range(M):
            oriented = _flipped(values[m], elected)
            total += tl.maximum(oriented, 0.0)
            subsets += tl.where(oriented > 0, 1 << m, 0)
        total = _flipped(total, elected)
        if NORMALIZE:
            total *= tl.load(shares + subsets)
    elif NORMALIZE:
        total = tl.div_rn(total, tl.load(numbers + 3 * M))
    return tl.load(numbers + 3 * M + 1) * total


@triton.jit
def _contract(
    sums,
    gradient,
    base,
    models,
    keys,
    numbers,
    thresholds,
    shares,
    count,
    P,
    M: tl.constexpr,
    HAS_BASE: tl.constexpr,
    DROP: tl.constexpr,
    TRIM: tl.constexpr,
    ELECT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < count
    slope = tl.load(gradient + at, inside, 0.0).to(tl.float32)
    origin = tl.zeros([BLOCK], tl.float32)
    if HAS_BASE:
        origin = tl.load(base + at, inside, 0.0).to(tl.float32)
    deltas = ()
    draws = ()
    for m in tl.static_range(M):
        deltas = deltas + (tl.load(models[m] + at, inside, 0.0).to(tl.float32) - origin,)  # noqa: RUF005
        if DROP:
            draws = draws + (_draws(tl.load(keys + m), start, BLOCK),)  # noqa: RUF005
    row = 3 * M + 2
    sets = 1 << M if ELECT and NORMALIZE else 1
    for p in range(P):
        above, below = 2 * p, 2 * p + 1
        high = _merged_delta(
            deltas,
            draws,
            numbers + above * row,
            thresholds + above * M,
            shares + above * sets,
            M,
            DROP,
            TRIM,
            ELECT,
            NORMALIZE,
        )
        low = _merged_delta(
            deltas,
            draws,
            numbers + below * row,
            thresholds + below * M,
            shares + below * sets,
            M,
            DROP,
            TRIM,
            ELECT,
            NORMALIZE,
        )
        tl.store(sums + tl.program_id(0).to(tl.int64) * P + p, tl.sum(slope * (high - low), axis=0))
