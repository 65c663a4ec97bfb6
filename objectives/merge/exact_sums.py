"""Sums of magnitudes that come out the same on every device, in every order of adding.

Magnitudes are counted in whole quanta, a power of two so small that the count of a whole tensor
still fits 63 bits; whole numbers add without rounding.
"""

import math

import numpy as np
import torch
from torch import Tensor

NOTHING = 1e-7
"""A sum below this is not divided by."""
_BITS = 62


def quantum(delta: Tensor) -> float:
    """What the magnitudes of `delta` are counted in: a 2**34th of the largest for 2**27 of them."""
    peak = float(delta.abs().max()) if delta.numel() else 0.0
    return math.ldexp(1.0, math.frexp(peak)[1] + delta.numel().bit_length() - _BITS)


def quanta(delta: Tensor, quantum: float) -> int:
    """The L1 sum of `delta` in whole quanta, each magnitude rounded down."""
    return int((delta.abs().double() * (1 / quantum)).to(torch.int64).sum())


def ratio(before: int, after: int, quantum: float) -> float:
    """`before / after` as a float32 holds it, 1 where either is next to nothing."""
    if min(before, after) * quantum < NOTHING:
        return 1.0
    return float(np.float32(before / after))
