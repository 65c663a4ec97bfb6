"""Tests of the internals of cmaes that study/search/cma.py depends on."""

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
