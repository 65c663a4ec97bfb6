"""Search by gradient: the optimiser, replayed from the gradients that a study has stored.

Adam (Kingma and Ba 2015, algorithm 1) on the parameters as shares of their ranges, so that one
learning rate fits weights and densities. The state is a function of the start and the gradients in
their order. Only additions, products, divisions and square roots of float64 are used, which IEEE
754 rounds in one way, so a replay proposes the same parameters bit for bit on every machine.

N: parameters, in the order of the bounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
_TINY = 1e-12


@dataclass(frozen=True)
class Rule:
    """How an ascent moves. Two ascents with equal rules, starts and gradients are equal."""

    steps: int
    """Planned number of steps; the learning rate falls to nothing after the last."""
    rate: float = 0.03
    """Learning rate of the first steps: the share of its range that a parameter moves at most."""
    decay: float = 0.5
    """Share of the steps after which the learning rate begins to fall, linearly."""
    pull: float = 0.0
    """Weight of the squared distance from the start, in shares of the ranges, in the loss."""
    beta1: float = 0.9
    beta2: float = 0.99
    """Decay of the running means of the gradient and of its square."""

    def rate_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.decay >= 1:
            return self.rate
        left = max(0.0, 1.0 - step / self.steps)
        return self.rate * min(1.0, left / (1.0 - self.decay))


class Ascent:
    """The state of an ascent: `params` is the next point, `tell` moves on from its gradient."""

    def __init__(
        self,
        start: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        rule: Rule,
    ) -> None:
        """`bounds` maps each parameter to its lowest and highest value. A start outside them
        begins at the nearest value inside.
        """
        self._names, self._rule = list(bounds), rule
        self._low_N = np.array([bounds[name][0] for name in self._names], np.float64)
        self._high_N = np.array([bounds[name][1] for name in self._names], np.float64)
        self._width_N = self._high_N - self._low_N
        begin_N = np.array([start[name] for name in self._names], np.float64)
        self._start_N = np.clip((begin_N - self._low_N) / self._width_N, 0.0, 1.0)
        self._x_N = self._start_N.copy()
        self._mean_N, self._square_N = np.zeros_like(self._x_N), np.zeros_like(self._x_N)
        self._powers = 1.0, 1.0
        self.step = 0
        """How many gradients have been told."""

    @property
    def params(self) -> dict[str, float]:
        """The parameters of the next step, in their own units, within the bounds."""
        values_N = np.clip(self._low_N + self._x_N * self._width_N, self._low_N, self._high_N)
        return dict(zip(self._names, values_N.tolist(), strict=True))

    @property
    def shares_N(self) -> Doubles:  # noqa: N802
        """The next point, in shares of the ranges."""
        return self._x_N.copy()

    @property
    def finished(self) -> bool:
        """Whether the planned number of steps is reached."""
        return self.step >= self._rule.steps

    @property
    def distance(self) -> float:
        """Root mean square distance of the next point from the start, in shares of the ranges."""
        return math.sqrt(math.fsum(((self._x_N - self._start_N) ** 2).tolist()) / len(self._x_N))

    def tell(self, gradient: Mapping[str, float]) -> None:
        """Take a step. `gradient` is the derivative of the loss, which is to fall, by each
        parameter in its own unit, at `params`.

        Raises ValueError if a number is not finite.
        """
        if broken := [name for name in self._names if not math.isfinite(gradient[name])]:
            raise ValueError(f"the gradient of {broken[0]} is {gradient[broken[0]]}")
        rule = self._rule
        given_N = np.array([gradient[name] for name in self._names], np.float64) * self._width_N
        slope_N = given_N + 2.0 * rule.pull * (self._x_N - self._start_N)
        self._mean_N = rule.beta1 * self._mean_N + (1.0 - rule.beta1) * slope_N
        self._square_N = rule.beta2 * self._square_N + (1.0 - rule.beta2) * slope_N * slope_N
        self._powers = self._powers[0] * rule.beta1, self._powers[1] * rule.beta2
        mean_N = self._mean_N / (1.0 - self._powers[0])
        root_N = np.sqrt(self._square_N / (1.0 - self._powers[1]))
        move_N = rule.rate_of(self.step) * mean_N / (root_N + _TINY)
        self._x_N = np.clip(self._x_N - move_N, 0.0, 1.0)
        self.step += 1


def replayed(
    start: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
    rule: Rule,
    gradients: Sequence[Mapping[str, float]],
) -> Ascent:
    """Return the ascent after these gradients, those of its first steps in order."""
    ascent = Ascent(start, bounds, rule)
    for gradient in gradients:
        ascent.tell(gradient)
    return ascent


def combined(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of the gradients of a batch's parts, each weighted already.

    The sum does not depend on the order of the parts, so it does not depend on the workers.
    """
    return {name: math.fsum(part[name] for part in parts) for name in parts[0]}
