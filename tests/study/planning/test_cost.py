"""Tests of the arithmetic of an estimate."""

import dataclasses

import pytest

from objectives.engines.engine import Prompt
from objectives.merge.catalogue import METHODS
from study.planning import cost
from tests.support.sizes import MISTRALS, SEVEN_B


def test_shared_tokens_count_once_and_in_whole_blocks() -> None:
    prompts = [Prompt(tuple(range(400 + own)), 405, 7, ()) for own in (60, 100)]
    tokens = cost.tokens_of(prompts)
    assert (tokens.questions, tokens.shared, tokens.own, tokens.decoded) == (2, 400, 160, 12)
    assert tokens.computed == 572
    assert cost.tokens_of([]).computed == 0


def test_seconds_are_operations_over_rates() -> None:
    card = cost.Card("x", 80e9, 1e15, 3e12, 50e9)
    assert cost.scoring_seconds(7_000_000_000, 350_000, card) == pytest.approx(4.9 / 0.56)
    pair = cost.scoring_seconds(7_000_000_000, 350_000, card, gpus=2)
    assert pair == pytest.approx(4.9 / 0.56 / 1.6)

    def merge(place: str, on: cost.Card, method: str = "dare_ties") -> float:
        return cost.merge_seconds(MISTRALS, place, on, method)

    assert merge("gpu", card) == pytest.approx(2.6 * 7 * SEVEN_B / 3e12)
    assert merge("gpu", card, "della") > 100 * merge("gpu", card)
    assert merge("pinned", card) == pytest.approx(4 * SEVEN_B / 45e9)
    slow = dataclasses.replace(card, bandwidth=1e10)
    assert merge("pinned", slow) == merge("gpu", slow)


def test_every_method_has_a_merge_time() -> None:
    measured = {*cost._MERGE_TIMES_OF, "linear", "task_arithmetic", "dare_linear", "dare_ties"}
    assert measured == set(METHODS)


def test_a_coarser_genome_is_suggested_if_one_has_enough_generations() -> None:
    assert cost.coarser(32, 4, 6, 1000, None) == (16, 12)
    assert cost.coarser(32, 4, 6, 100, None) is None
    assert cost.coarser(32, 4, 6, 1000, 30) is None


def test_a_generation_waits_for_its_last_trial() -> None:
    waves = cost.by_generation(302, 15)
    assert sum(waves) == 302
    assert cost.seconds_of([(wave, 1.0) for wave in waves], 14) == 20 * 2 + 1
