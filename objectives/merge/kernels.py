"""The task-arithmetic family in Triton: one pass over the tensors, the same bits as methods.py.

M: source models without the base, N: elements of a tensor. The compiler must not fuse operations
that torch rounds separately, so that the result does not depend on the device.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 4
_BINS = 65536
_COPIES = 32
"""The number of copies of the bins, so that fewer programs add to the same bin at a time."""


def tally(base: Tensor, model: Tensor, key: int, quantum: float) -> Tensor:
    """Return L1 norms of `model - base` by random draw, int64, [65537], on the CPU.

    Entry t is the norm, in quanta, of the elements whose draw is below t. `key` is the Philox key
    with its first word as the low one.
    """
    bins = torch.zeros(_BINS, dtype=torch.int64, device=base.device)
    keys = torch.tensor([key], device=base.device)
    per_quantum = torch.tensor([1 / quantum], dtype=torch.float64, device=base.device)
    count = base.numel()
    with torch.cuda.device_of(base):
        _tally[(triton.cdiv(count, BLOCK),)](
            bins, base, model, keys, per_quantum, count, BLOCK=BLOCK, num_warps=WARPS
        )
    return torch.cat([bins.new_zeros(1), bins.cumsum(dim=0)]).cpu()


def magnitudes(base: Tensor, model: Tensor) -> Tensor:
    """Count the elements of |model - base| by their upper 16 bits, int64, [65536]."""
    bins = torch.zeros(_COPIES, _BINS, dtype=torch.int32, device=base.device)
    _histogram(bins, base, model, None)
    return bins.sum(dim=0)


def magnitudes_within(base: Tensor, model: Tensor, high: int) -> Tensor:
    """Count the elements whose upper 16 bits are `high` by their lower 16 bits, [65536]."""
    bins = torch.zeros(1, _BINS, dtype=torch.int32, device=base.device)
    _histogram(bins, base, model, torch.tensor([high], dtype=torch.int32, device=base.device))
    return bins[0]


def _histogram(bins: Tensor, base: Tensor, model: Tensor, high: Tensor | None) -> None:
    count = base.numel()
    with torch.cuda.device_of(base):
        _count[(triton.cdiv(count, BLOCK),)](
            bins,
            base,
            model,
            bins if high is None else high,
            count,
            COPIES=len(bins),
            WITHIN=high is not None,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )


def mix(
    out: Tensor,
    base: Tensor | None,
    models_M: Sequence[Tensor],
    numbers: Tensor,
    draws: Tensor,
    shares: Tensor,
    drop: bool,
    trim: bool,
    elect: bool,
    normalize: bool,
) -> None:
    """Write the merge of `models_M` on `base` to `out`, all contiguous and of one shape.

    `numbers`, float32 of shape [3 M + 2], holds the weights, the factors that restore the norm
    (DARE) and the smallest magnitudes kept (TIES), then the divisor and the scale. `draws`,
    int64 of shape [2 M], holds the Philox keys and the draws below which an element is kept.
    `shares`, float32 of shape [2**M], holds the factor of an elected and normalized sum, at the
    index whose bits are the models that agree.
    """
    count = out.numel()
    with torch.cuda.device_of(out):
        _mix[(triton.cdiv(count, BLOCK),)](
            out,
            out if base is None else base,
            tuple(models_M),
            numbers,
            draws,
            shares,
            count,
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


@triton.jit
def _draws(key, start, BLOCK: tl.constexpr):
    """Return the 16-bit draws of the elements start to start + BLOCK, as defined in masks.py.

    A 64-bit product has both words after one instruction; `tl.philox` needs two.
    """
    c0 = (start // 8 + tl.arange(0, BLOCK // 8)).to(tl.uint32)
    c1 = tl.zeros_like(c0)
    c2, c3 = c1, c1
    k0, k1 = (key & 0xFFFFFFFF).to(tl.uint32), ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = second.to(tl.uint32)
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = first.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    lows = tl.interleave(c0 & 0xFFFF, c2 & 0xFFFF), tl.interleave(c1 & 0xFFFF, c3 & 0xFFFF)
    highs = tl.interleave(c0 >> 16, c2 >> 16), tl.interleave(c1 >> 16, c3 >> 16)
    even, odd = tl.interleave(lows[0], lows[1]), tl.interleave(highs[0], highs[1])
    return tl.interleave(even, odd).to(tl.int32)


@triton.jit
def _flipped(values, sign):
    """Return `values`, negated if `sign` has the sign bit: one instruction without a branch."""
    return (values.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _tally(bins, base, model, key, per_quantum, count, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < count
    delta = tl.load(model + at, inside, 0.0).to(tl.float32)
    delta -= tl.load(base + at, inside, 0.0).to(tl.float32)
    quanta = (tl.abs(delta).to(tl.float64) * tl.load(per_quantum)).to(tl.int64)
    tl.atomic_add(bins + _draws(tl.load(key), start, BLOCK), quanta, inside, sem="relaxed")


@triton.jit
def _count(
    bins, base, model, high, count, COPIES: tl.constexpr, WITHIN: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    delta = tl.load(model + at, inside, 0.0).to(tl.float32)
    delta -= tl.load(base + at, inside, 0.0).to(tl.float32)
    bits = tl.abs(delta).to(tl.int32, bitcast=True)
    if WITHIN:
        inside &= bits >> 16 == tl.load(high)
        place = bits & 0xFFFF
    else:
        place = (tl.program_id(0) % COPIES) * 65536 + (bits >> 16)
    tl.atomic_add(bins + place, 1, inside, sem="relaxed")


@triton.jit
def _mix(
    out,
    base,
    models,
    numbers,
    draws,
    shares,
    count,
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
    below = tl.zeros([BLOCK], tl.float32)
    if HAS_BASE:
        below = tl.load(base + at, inside, 0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    values = ()
    for m in tl.static_range(M):
        value = tl.load(models[m] + at, inside, 0.0).to(tl.float32) - below
        if DROP:
            kept = _draws(tl.load(draws + m), start, BLOCK) < tl.load(draws + M + m).to(tl.int32)
            value = tl.where(kept, value, 0.0) * tl.load(numbers + M + m)
        if TRIM:
            value = tl.where(tl.abs(value) >= tl.load(numbers + 2 * M + m), value, 0.0)
        value = tl.load(numbers + m) * value
        total += value
        values = values + (value,)  # noqa: RUF005  # Triton knows no starred tuples
    if ELECT:
        elected = total.to(tl.int32, bitcast=True) & -0x80000000  # a sum from 0.0 is never -0.0
        total = tl.zeros([BLOCK], tl.float32)
        agreeing = tl.zeros([BLOCK], tl.int32)
        for m in tl.static_range(M):
            along = _flipped(values[m], elected)
            total += tl.maximum(along, 0.0)
            agreeing += tl.where(along > 0, 1 << m, 0)
        total = _flipped(total, elected)
        if NORMALIZE:
            total *= tl.load(shares + agreeing)
    elif NORMALIZE:
        total = tl.div_rn(total, tl.load(numbers + 3 * M))
    if HAS_BASE:
        total = below + tl.load(numbers + 3 * M + 1) * total
    tl.store(out + at, total.to(out.dtype.element_ty), inside)
