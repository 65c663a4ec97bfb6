"""Merge methods as functions of tensors, without files, names or configs.

M: source models, *: the shape of the tensor being merged. All arithmetic is float32.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import exact_sums as sums


def linear(tensors_M: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Return the weighted sum or mean (Wortsman et al. 2022, "Model soups")."""
    mixed = sum_of(tensors_M, weights)
    return mixed / sum(weights) if normalize else mixed


def task_arithmetic(
    base: Tensor,
    deltas_M: Sequence[Tensor],
    weights: Sequence[float],
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add the weighted deltas (Ilharco et al. 2023, section 2)."""
    mixed = sum_of(deltas_M, weights)
    if normalize:
        mixed = mixed / divisor(weights)
    return base + scale * mixed


def divisor(weights: Sequence[float]) -> float:
    """What task arithmetic divides by: the sum of the weights, unless that is nothing."""
    total = sum(weights)
    return total if abs(total) >= 1e-8 else 1.0


def ties(
    base: Tensor,
    deltas_M: Sequence[Tensor],
    weights: Sequence[float],
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Add the weighted deltas that agree with the sign of their sum (Yadav et al. 2023, 3.2).

    A sum of zero counts as positive. Trimmed or masked deltas are zero and agree with nothing.
    """
    majority = torch.where(sum_of(deltas_M, weights) >= 0, 1.0, -1.0)
    mixed, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for delta, weight in zip(deltas_M, weights, strict=True):
        weighted = weight * delta
        agrees = weighted.sign() == majority
        mixed = mixed + torch.where(agrees, weighted, 0.0)
        divisor = divisor + torch.where(agrees, weight, 0.0)
    if normalize:
        mixed = mixed * (1 / torch.where(divisor == 0, 1.0, divisor))
    return base + scale * mixed


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the largest entries, a fraction `density` of them (Yadav et al. 2023, 3.1).

    All entries as large as the smallest one kept stay, so entries of equal magnitude are treated
    alike.
    """
    if density >= 1 or delta.numel() == 0:
        return delta
    return torch.where(delta.abs() >= smallest_kept(delta, density), delta, 0.0)


def smallest_kept(delta: Tensor, density: float) -> Tensor:
    """Return the smallest magnitude that `trim` keeps, a scalar; infinity if it keeps nothing."""
    if density <= 0:
        return torch.full((), math.inf, device=delta.device)
    kept = max(1, int(density * delta.numel()))
    return delta.abs().flatten().kthvalue(delta.numel() - kept + 1).values


def drop_and_rescale(delta: Tensor, kept: Tensor) -> Tensor:
    """Zero the entries that are not kept and restore the L1 norm (Yu et al. 2024, DARE).

    mergekit's form: the factor is the ratio of the L1 sums, not 1 / density.
    """
    masked = torch.where(kept, delta, 0.0)
    quantum = sums.quantum(delta)
    before, after = sums.quanta(delta, quantum), sums.quanta(masked, quantum)
    return masked * sums.ratio(before, after, quantum)


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Interpolate along the arc from the first tensor (t = 0) to the second (Shoemake 1985).

    Nearly parallel tensors (|cosine| above 0.9995) are interpolated linearly.
    """
    a, b = first.flatten(), second.flatten()
    cosine = float(torch.dot(a / _norm(a), b / _norm(b)).clamp(-1, 1))
    if abs(cosine) > 0.9995:
        return (1 - t) * first + t * second
    angle = torch.acos(torch.tensor(cosine))
    share_first = torch.sin((1 - t) * angle) / torch.sin(angle)
    share_second = torch.sin(t * angle) / torch.sin(angle)
    return share_first * first + share_second * second


def sum_of(tensors_M: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted sum, added in the given order."""
    total = torch.zeros_like(tensors_M[0])
    for tensor, weight in zip(tensors_M, weights, strict=True):
        total = total + weight * tensor
    return total


def _norm(vector: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(vector)
    return torch.where(norm > 1e-8, norm, 1.0)
