"""The task-arithmetic family in Triton: one pass over the tensors, the same bits as methods.py.

M: source models (the base apart), N: elements of a tensor. Nothing here is fused by the compiler
that torch rounds twice, so the result does not depend on the device.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 1024, 4
_BINS = 65536


def tally(base: Tensor, model: Tensor, key: int, grain: float) -> Tensor:
    """L1 sums of `model - base` by random draw: entry t counts, in grains, the elements whose
    draw is below t. int64 of shape [65537], on the CPU. `key` is the Philox key, its first word
    the low one.
    """
    bins = torch.zeros(_BINS, dtype=torch.int64, device=base.device)
    keys = torch.tensor([key], device=base.device)
    per_grain = torch.tensor([1 / grain], dtype=torch.float64, device=base.device)
    count = base.numel()
    with torch.cuda.device_of(base):
        _tally[(triton.cdiv(count, BLOCK),)](
            bins, base, model, keys, per_grain, count, BLOCK=BLOCK, num_warps=WARPS
        )
    return torch.cat([bins.new_zeros(1), bins.cumsum(dim=0)]).cpu()


def mix(
    out: Tensor,
    base: Tensor | None,
    models_M: Sequence[Tensor],
    numbers: Tensor,
    draws: Tensor,
    drop: bool,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> None:
    """Write the merge of `models_M` on `base` to `out`, all contiguous and of one shape.

    `numbers`, float32 of shape [3 M + 2], holds the weights, the factors that restore the norm
    (DARE) and the smallest magnitudes kept (TIES), then the divisor and the scale. `draws`,
    int64 of shape [2 M], holds the Philox keys and the draws below which an element is kept.
    """
    count = out.numel()
    with torch.cuda.device_of(out):
        _mix[(triton.cdiv(count, BLOCK),)](
            out,
            out if base is None else base,
            tuple(models_M),
            numbers,
            draws,
            count,
            M=len(models_M),
            BASED=base is not None,
            DROP=drop,
            TRIM=trim,
            ELECT=elect,
            NORMALIZE=normalize,
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


@triton.jit
def _draws(key, start, BLOCK: tl.constexpr):
    """The 16-bit draws of elements start to start + BLOCK, as masks.py defines them."""
    counters = (start // 8 + tl.arange(0, BLOCK // 8)).to(tl.uint32)
    a, b, c, d = tl.philox(key, counters, 0, 0, 0)
    lows = tl.interleave(a & 0xFFFF, c & 0xFFFF), tl.interleave(b & 0xFFFF, d & 0xFFFF)
    highs = tl.interleave(a >> 16, c >> 16), tl.interleave(b >> 16, d >> 16)
    even, odd = tl.interleave(lows[0], lows[1]), tl.interleave(highs[0], highs[1])
    return tl.interleave(even, odd).to(tl.int32)


@triton.jit
def _tally(bins, base, model, key, per_grain, count, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < count
    delta = tl.load(model + at, inside, 0.0).to(tl.float32)
    delta -= tl.load(base + at, inside, 0.0).to(tl.float32)
    grains = (tl.abs(delta).to(tl.float64) * tl.load(per_grain)).to(tl.int64)
    tl.atomic_add(bins + _draws(tl.load(key), start, BLOCK), grains, inside, sem="relaxed")


@triton.jit
def _mix(
    out,
    base,
    models,
    numbers,
    draws,
    count,
    M: tl.constexpr,
    BASED: tl.constexpr,
    DROP: tl.constexpr,
    TRIM: tl.constexpr,
    ELECT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < count
    below = tl.zeros([BLOCK], tl.float32)
    if BASED:
        below = tl.load(base + at, inside, 0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    positive, negative = total, total
    for_positive, for_negative = total, total
    for m in tl.static_range(M):
        value = tl.load(models[m] + at, inside, 0.0).to(tl.float32) - below
        if DROP:
            kept = _draws(tl.load(draws + m), start, BLOCK) < tl.load(draws + M + m).to(tl.int32)
            value = tl.where(kept, value, 0.0) * tl.load(numbers + M + m)
        if TRIM:
            value = tl.where(tl.abs(value) >= tl.load(numbers + 2 * M + m), value, 0.0)
        weight = tl.load(numbers + m)
        value = weight * value
        total += value
        if ELECT:
            positive += tl.where(value > 0, value, 0.0)
            negative += tl.where(value < 0, value, 0.0)
            if NORMALIZE:
                for_positive += tl.where(value > 0, weight, 0.0)
                for_negative += tl.where(value < 0, weight, 0.0)
    if ELECT:
        up = total >= 0
        total = tl.where(up, positive, negative)
        if NORMALIZE:
            divisor = tl.where(up, for_positive, for_negative)
            total = tl.div_rn(total, tl.where(divisor == 0, 1.0, divisor))
    elif NORMALIZE:
        total = tl.div_rn(total, tl.load(numbers + 3 * M))
    if BASED:
        total = below + tl.load(numbers + 3 * M + 1) * total
    tl.store(out + at, total.to(out.dtype.element_ty), inside)
