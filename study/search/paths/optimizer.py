"""The one module that touches the internals of `cmaes.CatCMAwM`.

Its public surface has no way to tell it stored points, and none of its distribution. What is used
instead: the field `_v_raw` of a solution, `_mean`, `_sigma`, `_A`, `_C`, `_q`, `_rng`,
`_eigen_decomposition`, `_sample_from_gaussian` and `reseed_rng` of `cmaes` 0.13. pyproject.toml
pins the minor version, and tests/study/search/test_path_search.py says what is relied on.
"""

from collections.abc import Sequence

import numpy as np
from cmaes import CatCMAwM
from numpy.typing import NDArray

from study.search.cma import Floats, one_thread, symmetric_root

Point = tuple[Floats, NDArray[np.int64]]
"""The continuous coordinates, 0 to 1, and the index of each choice."""


class _Symmetric(CatCMAwM):  # type: ignore[misc]
    """CatCMAwM whose points are drawn with the symmetric square root of the covariance, which does
    not depend on the kind of CPU: see `study.search.cma`."""

    def _sample_from_gaussian(self) -> Floats:
        basis, scales = self._eigen_decomposition()
        step = symmetric_root(basis, scales, self._rng.randn(self._Nmi))
        point: Floats = self._mean + self._sigma * self._A * step
        return point


class MixedOptimizer:
    """CMA-ES with categorical parameters (CatCMA with margin), minimizing.

    Hamano et al. 2025, "CatCMA with Margin: Stochastic Optimization for Continuous, Integer, and
    Categorical Variables" (arXiv:2504.07884). Every method runs on one thread.
    """

    def __init__(
        self, mean: Floats, sigma: float, probabilities: Sequence[Floats], population: int
    ) -> None:
        """Begin at a distribution over the unit cube and the choices.

        `mean` has shape [continuous parameters], which may be 0. `probabilities` has the
        probabilities of each choice, which sum to 1.
        """
        self._sizes = [len(p) for p in probabilities]
        first = np.zeros((len(self._sizes), max(self._sizes)))
        for row, of_choice in zip(first, probabilities, strict=True):
            row[: len(of_choice)] = of_choice
        count = len(mean)
        self._cma = _Symmetric(
            x_space=np.array([[0.0, 1.0]] * count) if count else None,
            c_space=self._sizes,
            population_size=population,
            mean=mean.copy() if count else None,
            sigma=sigma if count else None,
            cov=np.eye(count) if count else None,
            cat_param=first,
        )

    @property
    def generation(self) -> int:
        return int(self._cma.generation)

    @property
    def mean(self) -> Floats:
        """The mean of the continuous parameters; it may lie outside the cube."""
        return self._cma._mean.copy() if self._cma._Nmi else np.zeros(0)

    @property
    def sigma(self) -> float:
        """The step size of the continuous parameters; 0 if there are none."""
        return float(self._cma._sigma) if self._cma._Nmi else 0.0

    @property
    def deviations(self) -> Floats:
        """The standard deviation along each continuous parameter."""
        cma = self._cma
        return cma._sigma * cma._A * np.sqrt(np.diag(cma._C)) if cma._Nmi else np.zeros(0)

    @property
    def probabilities(self) -> list[Floats]:
        """The probabilities of each choice."""
        return [row[:size].copy() for row, size in zip(self._cma._q, self._sizes, strict=True)]

    def ask(self, seed: int) -> Point:
        """Draw a point with random numbers that depend on the seed alone."""
        with one_thread():
            self._cma.reseed_rng(seed)
            solution = self._cma.ask()
        values = np.zeros(0) if solution.x is None else solution.x
        return values, np.argmax(solution.c, axis=1)

    def tell(self, solutions: Sequence[tuple[Point, float]]) -> None:
        """Advance by one generation of (point, value to minimize)."""
        with one_thread():
            self._cma.tell([(self._solution(point), value) for point, value in solutions])

    def _solution(self, point: Point) -> CatCMAwM.Solution:
        values, indices = point
        chosen = np.zeros((len(self._sizes), max(self._sizes)), dtype=bool)
        chosen[np.arange(len(indices)), indices] = True
        return CatCMAwM.Solution(values, None, chosen, values.copy())
