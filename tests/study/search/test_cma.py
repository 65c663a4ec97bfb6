"""Tests of the internals of cmaes that study/search/cma.py depends on."""

import os
import subprocess
import sys

import cmaes
import numpy as np
import pytest
from cmaes import CMA

from study.search.cma import Optimizer


def test_the_installed_version_is_supported() -> None:
    assert cmaes.__version__.startswith("0.13.")


@pytest.fixture
def optimizer() -> Optimizer:
    return Optimizer(np.full(3, 0.5), 0.2, 6)


def test_the_distribution_equals_that_of_cmaes(optimizer: Optimizer) -> None:
    covariance = np.diag([1.0, 4.0, 0.25])
    optimizer = Optimizer(np.array([0.1, 0.5, 0.9]), 0.3, 6, covariance)

    assert optimizer.mean == pytest.approx([0.1, 0.5, 0.9])
    assert optimizer.sigma == pytest.approx(0.3)
    assert optimizer.deviations == pytest.approx([0.3, 0.6, 0.15])


def test_a_point_depends_only_on_the_seed(optimizer: Optimizer) -> None:
    first, other = optimizer.ask(1), optimizer.ask(2)

    assert (optimizer.ask(1) == first).all()
    assert (other != first).any()


def test_a_generation_updates_the_distribution_as_in_cmaes(optimizer: Optimizer) -> None:
    reference = CMA(np.full(3, 0.5), 0.2, np.array([[0.0, 1.0]] * 3), population_size=6)
    points = [optimizer.ask(seed) for seed in range(6)]
    solutions = [(point, float(point.sum())) for point in points]

    optimizer.tell(solutions)
    reference.tell(solutions)

    assert optimizer.generation == reference.generation == 1
    assert (optimizer.mean == reference.mean).all()
    assert optimizer.sigma == reference._sigma


def test_changes_of_returned_arrays_do_not_change_the_optimizer(optimizer: Optimizer) -> None:
    optimizer.mean[:] = 0.0

    assert optimizer.mean == pytest.approx([0.5] * 3)


_PROPOSALS = """
import numpy as np
from study.search.cma import Optimizer
optimizer = Optimizer(np.full(48, 0.5), 0.2, 4)
points = [optimizer.ask(seed) for seed in range(4)]
optimizer.tell([(point, float(point[0])) for point in points])
print(*optimizer.ask(9))
"""


def test_a_proposal_does_not_depend_on_the_kind_of_cpu() -> None:
    """After one generation of 4 points, 44 of 48 eigenvalues are equal: the basis of their space
    is whatever OpenBLAS returns on a CPU. Where its variable is unknown the runs are alike."""
    here, older = (
        subprocess.run(
            [sys.executable, "-c", _PROPOSALS],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for settings in ({}, {"OPENBLAS_CORETYPE": "Prescott"})
    )

    assert [float(x) for x in here] == pytest.approx([float(x) for x in older], abs=1e-9)


def test_points_follow_the_covariance() -> None:
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.25]])
    optimizer = Optimizer(np.full(3, 0.5), 0.05, 6, covariance)
    points = np.array([optimizer.ask(seed) for seed in range(4000)])

    assert np.cov(points.T) == pytest.approx(covariance * 0.05**2, abs=0.05**2 * 0.08)


def test_a_study_of_version_0_1_0_draws_as_cmaes_does() -> None:
    optimizer = Optimizer(np.full(3, 0.5), 0.2, 6, symmetric=False)
    theirs = CMA(np.full(3, 0.5), 0.2, np.array([[0.0, 1.0]] * 3), population_size=6)
    theirs.reseed_rng(5)

    assert (optimizer.ask(5) == theirs.ask()).all()
