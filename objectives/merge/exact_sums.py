"""Sums of magnitudes that are the same on every device and in every order of addition.

Magnitudes are counted in quanta, a power of two so small that the sum of a whole tensor just fits
in 63 bits. Integers are added without rounding.
"""

import math

import numpy as np
import torch
from torch import Tensor

NOTHING = 1e-7
"""Sums below this value are treated as zero."""
_BITS = 62


def quantum(delta: Tensor) -> float:
    """Return the quantum of a tensor: for 2**27 elements, 2**-34 of the largest magnitude."""
    peak = float(delta.abs().max()) if delta.numel() else 0.0
    return math.ldexp(1.0, math.frexp(peak)[1] + delta.numel().bit_length() - _BITS)


def quanta(delta: Tensor, quantum: float) -> int:
    """Return the L1 norm of `delta` in quanta, with each magnitude rounded down."""
    return int((delta.abs().double() * (1 / quantum)).to(torch.int64).sum())


def ratio(before: int, after: int, quantum: float) -> float:
    """Return `before / after`, rounded to float32; 1 if either sum is treated as zero."""
    if min(before, after) * quantum < NOTHING:
        return 1.0
    return float(np.float32(before / after))
