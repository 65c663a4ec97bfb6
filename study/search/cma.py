"""The one module that touches the internals of `cmaes`.

Its public surface has no step size, no covariance and no way to reseed a running optimizer. What
is used instead: `_sigma`, `_C`, `_rng`, `_mean`, `_eigen_decomposition`, `_sample_solution`,
`reseed_rng` and `mean` of `cmaes.CMA` 0.13. pyproject.toml pins the minor version, and
tests/study/search/test_cma.py says what is relied on.
"""

import functools
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]


@functools.cache
def _libraries() -> ThreadpoolController:
    """Return the controller of numpy's libraries. Finding them takes milliseconds."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which numpy's libraries use one thread."""
    context: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return context


def symmetric_root(basis: Floats, scales: Floats, normal: Floats) -> Floats:
    """Return the symmetric square root of a covariance, whose eigenvectors are the columns of
    `basis` and whose eigenvalues are the squares of `scales`, times the vector `normal`."""
    product: Floats = basis @ (scales * (basis.T @ normal))
    return product


class _Symmetric(CMA):  # type: ignore[misc]
    """CMA-ES whose points are drawn with the symmetric square root of the covariance.

    `cmaes` draws with B D, where C = B D^2 B^T. In the first generations most eigenvalues are
    equal, and which basis B of their space `numpy.linalg.eigh` returns depends on the kind of
    CPU. The product B D B^T does not, up to rounding.
    """

    def _sample_solution(self) -> Floats:
        basis, scales = self._eigen_decomposition()
        step = symmetric_root(basis, scales, self._rng.randn(len(self._mean)))
        point: Floats = self._mean + self._sigma * step
        return point


class Optimizer:
    """CMA-ES over the unit cube, minimizing.

    Every method runs on one thread: the last bits of an eigenvector depend on the thread count.
    """

    def __init__(
        self,
        mean: Floats,
        sigma: float,
        population: int,
        covariance: Floats | None = None,
        symmetric: bool = True,
    ) -> None:
        """`mean` has shape [parameters]; `covariance`, the identity by default, is square.

        `symmetric` draws with the symmetric square root of the covariance; studies of version
        0.1.0 used the eigenvectors that the CPU's LAPACK returns.
        """
        kind = _Symmetric if symmetric else CMA
        self._cma = kind(
            mean.copy(),
            sigma,
            np.array([[0.0, 1.0]] * len(mean)),
            population_size=population,
            cov=None if covariance is None else covariance.copy(),
        )

    @property
    def generation(self) -> int:
        return int(self._cma.generation)

    @property
    def mean(self) -> Floats:
        """The mean of the distribution, which may lie outside the cube."""
        mean: Floats = self._cma.mean.copy()
        return mean

    @property
    def sigma(self) -> float:
        return float(self._cma._sigma)

    @property
    def deviations(self) -> Floats:
        """The standard deviation along each parameter."""
        deviations: Floats = self._cma._sigma * np.sqrt(np.diag(self._cma._C))
        return deviations

    def ask(self, seed: int) -> Floats:
        """Draw a point with random numbers that depend on the seed alone."""
        with one_thread():
            self._cma.reseed_rng(seed)
            point: Floats = self._cma.ask()
        return point

    def tell(self, solutions: list[tuple[Floats, float]]) -> None:
        """Advance by one generation of (point, value to minimize)."""
        with one_thread():
            self._cma.tell(solutions)
