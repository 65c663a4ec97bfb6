"""Random masks that depend only on the recipe's seed, the model and the tensor.

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives every
element of every tensor a fixed 16-bit draw, keyed by (seed, model, tensor name). An element is
kept if its draw is below the density. So the mask of a lower density is a subset of that of a
higher one, and masks do not depend on order, device or shard. Sixteen bits resolve a density to
1/65536, and eight elements share one evaluation of Philox.
"""

import hashlib
import math

import torch
from torch import Tensor

DRAW_BITS = 16
SCHEME = "philox 4x32-10, 16 bits; sums in grains"
"""Part of a study's fingerprint. Change it whenever the same recipe yields other weights, so that
stored trials are not mixed with new ones."""
_DRAWS = 128 // DRAW_BITS
_ROUNDS = 10
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def key(seed: int, model: str, tensor: str) -> tuple[int, int]:
    """Return the two 32-bit words of the Philox key."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Return four 32-bit words for each 64-bit counter, int64, [*counters.shape, 4]."""
    c0, c1 = counters & _LOW, counters >> 32 & _LOW
    c2 = c3 = torch.zeros_like(counters)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLY[0])
        high1, low1 = _multiply(c2, _MULTIPLY[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return torch.stack([c0, c1, c2, c3], dim=-1)


def draws(key: tuple[int, int], shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """Return a draw in [0, 2**16) for every element, int32 of the given shape.

    Element i, in row-major order, takes 16-bit piece i % 8 of counter i // 8: the low half of
    the first word, its high half, the low half of the second word, and so on.
    """
    count = math.prod(shape)
    counters = torch.arange(-(-count // _DRAWS), dtype=torch.int64, device=device)
    words = philox(counters, key)
    pieces = torch.stack([words & 0xFFFF, words >> 16], dim=-1)
    return pieces.to(torch.int32).flatten()[:count].view(shape)


def threshold(density: float) -> int:
    """Return the draw below which elements are kept."""
    return int(min(max(density, 0.0), 1.0) * 2**DRAW_BITS + 0.5)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of a 32 x 32 bit product; int64 overflow keeps the bits."""
    product = a * b
    return product >> 32 & _LOW, product & _LOW
