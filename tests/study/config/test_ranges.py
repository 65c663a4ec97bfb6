"""The default search ranges."""

import pytest

from objectives.merge.catalogue import METHODS
from study.config.ranges import NEGATIVE_WEIGHT, default_range


@pytest.mark.parametrize("method", list(METHODS))
def test_ranges_are_within_the_limits_and_contain_the_start(method: str) -> None:
    for p in METHODS[method].parameters:
        range_ = default_range(method, p.name)
        if range_ is not None:
            assert p.is_number
            assert p.limits[0] <= range_.low < range_.high <= p.limits[1]
            assert range_.start is None or range_.low <= range_.start <= range_.high
            assert not p.open or range_.low > p.limits[0]


def test_negative_weights_lower_the_bound_of_weights_alone() -> None:
    weight = default_range("dare_ties", "weight", negative_weights=True)
    assert weight is not None
    assert (weight.low, weight.high) == (NEGATIVE_WEIGHT, 1.4)
    density = default_range("dare_ties", "density", negative_weights=True)
    assert density == default_range("dare_ties", "density")


def test_numbers_that_guard_a_computation_are_not_searched() -> None:
    assert default_range("multislerp", "eps") is None
    assert default_range("karcher", "tol") is None
