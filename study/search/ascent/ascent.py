"""Search by gradient: the optimizer, replayed from the gradients that a study has stored.

Adam (Kingma and Ba 2015, algorithm 1) on the parameters, scaled from their ranges to 0 to 1, so
that one learning rate fits weights and densities. The state depends only on the start and on the
sequence of gradients. It is computed by float64 additions, products, divisions and square roots,
whose rounding IEEE 754 defines, so a replay proposes bit-identical parameters on every machine.

N: parameters, in the order of the bounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
_EPSILON = 1e-12


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of an ascent."""

    steps: int
    """The planned number of steps, after which the learning rate is 0 (if `decay` is below 1)."""
    rate: float = 0.03
    """The first learning rate: about the largest fraction of its range that a parameter moves."""
    decay: float = 0.5
    """The fraction of the steps after which the learning rate decays linearly; 1 for no decay."""
    pull: float = 0.0
    """The coefficient of the L2 penalty on the scaled distance from the start."""
    beta1: float = 0.9
    beta2: float = 0.99
    """The exponential decay rates of the moving averages of the gradient and of its square."""

    def rate_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.decay >= 1:
            return self.rate
        left = max(0.0, 1.0 - step / self.steps)
        return self.rate * min(1.0, left / (1.0 - self.decay))


class Ascent:
    """The state of an ascent, which maximizes the objective by minimizing a loss.

    `params` is the next point; `tell` takes a step with the gradient at that point.
    """

    def __init__(
        self,
        start: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        rule: Hyperparameters,
    ) -> None:
        """Begin an ascent at `start`, clipped to the bounds.

        `bounds` maps each parameter to its lowest and highest value.
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
        """The number of steps taken."""

    @property
    def params(self) -> dict[str, float]:
        """The parameters of the next step, in their own units, within the bounds."""
        values_N = np.clip(self._low_N + self._x_N * self._width_N, self._low_N, self._high_N)
        return dict(zip(self._names, values_N.tolist(), strict=True))

    @property
    def shares_N(self) -> Doubles:  # noqa: N802
        """The next point, scaled to 0 to 1."""
        return self._x_N.copy()

    @property
    def finished(self) -> bool:
        """Whether the planned number of steps is reached."""
        return self.step >= self._rule.steps

    @property
    def distance(self) -> float:
        """The root mean square distance of the scaled next point from the start."""
        return math.sqrt(math.fsum(((self._x_N - self._start_N) ** 2).tolist()) / len(self._x_N))

    def tell(self, gradient: Mapping[str, float]) -> None:
        """Take a step that decreases the loss.

        `gradient` is the derivative of the loss with respect to each parameter, in the parameter's
        units, at `params`. Raises ValueError if a derivative is not finite.
        """
        if non_finite := [name for name in self._names if not math.isfinite(gradient[name])]:
            raise ValueError(
                f"derivative with respect to {non_finite[0]}: {gradient[non_finite[0]]}"
            )
        rule = self._rule
        loss_gradient_N = (
            np.array([gradient[name] for name in self._names], np.float64) * self._width_N
        )
        gradient_N = loss_gradient_N + 2.0 * rule.pull * (self._x_N - self._start_N)
        self._mean_N = rule.beta1 * self._mean_N + (1.0 - rule.beta1) * gradient_N
        self._square_N = rule.beta2 * self._square_N + (1.0 - rule.beta2) * gradient_N * gradient_N
        self._powers = self._powers[0] * rule.beta1, self._powers[1] * rule.beta2
        mean_N = self._mean_N / (1.0 - self._powers[0])
        root_N = np.sqrt(self._square_N / (1.0 - self._powers[1]))
        update_N = rule.rate_of(self.step) * mean_N / (root_N + _EPSILON)
        self._x_N = np.clip(self._x_N - update_N, 0.0, 1.0)
        self.step += 1


def replay(
    start: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
    rule: Hyperparameters,
    gradients: Sequence[Mapping[str, float]],
) -> Ascent:
    """Return the ascent after one step for each of `gradients`, in order."""
    ascent = Ascent(start, bounds, rule)
    for gradient in gradients:
        ascent.tell(gradient)
    return ascent
