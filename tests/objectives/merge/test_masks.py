import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.merge import masks

SHAPE = torch.Size([64, 33])


def test_philox_yields_the_published_words() -> None:
    """The expected values are those of Random123 for Philox 4x32-10."""
    zeros = masks.philox(torch.zeros(1, dtype=torch.int64), (0, 0))
    assert zeros[0].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_masks_are_nested_in_the_density(a: float, b: float) -> None:
    drawn = masks.draws(masks.key(1, "numeric", "model.norm.weight"), SHAPE)
    fewer, more = sorted((masks.threshold(a), masks.threshold(b)))
    assert not ((drawn < fewer) & ~(drawn < more)).any()


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_masks_keep_the_fraction_given_by_the_density(density: float) -> None:
    drawn = masks.draws(masks.key(1, "x", "y"), torch.Size([1000, 1000]))
    kept = (drawn < masks.threshold(density)).float().mean().item()
    assert kept == pytest.approx(density, abs=5 * (density * (1 - density)) ** 0.5 / 1000)


def test_a_density_of_one_keeps_everything_and_of_zero_nothing() -> None:
    drawn = masks.draws(masks.key(1, "x", "y"), SHAPE)
    assert (drawn < masks.threshold(1.0)).all()
    assert not (drawn < masks.threshold(0.0)).any()


def test_draws_depend_on_the_element_and_not_on_the_shape() -> None:
    key = masks.key(3, "x", "y")
    whole = masks.draws(key, torch.Size([10, 7])).flatten()
    assert torch.equal(whole[:21], masks.draws(key, torch.Size([3, 7])).flatten())


def test_seed_model_and_tensor_each_change_the_draws() -> None:
    keys = {masks.key(s, m, t) for s in (0, 1) for m in ("a", "b") for t in ("p", "q")}
    assert len(keys) == 8
    one, other = (masks.draws(masks.key(0, m, "p"), SHAPE) for m in ("a", "b"))
    agree = ((one < masks.threshold(0.5)) == (other < masks.threshold(0.5))).float().mean().item()
    assert agree == pytest.approx(0.5, abs=0.05)


def test_elements_take_the_halves_of_the_words_in_order() -> None:
    key = masks.key(7, "x", "y")
    words = masks.philox(torch.arange(2), key).flatten().tolist()
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    assert masks.draws(key, torch.Size([13])).tolist() == halves[:13]
