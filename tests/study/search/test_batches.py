"""Tests of the batches of a gradient search."""

from collections import Counter

import pytest

from study.search.ascent.batches import Batches

IDS = ([*range(100, 140)], [*range(7)])
SHARES = ([0.875 / 40] * 40, [0.125 / 7] * 7)


def test_the_size_of_a_task_in_a_batch_is_its_share() -> None:
    for size in (8, 24, 96):
        batches = Batches(IDS, SHARES, size, 0)
        assert batches.size == size
        assert Counter(item.task for item in batches.at(0)) == {0: size * 7 // 8, 1: size // 8}
    assert Batches(IDS, SHARES, 3, 0).size == 3


def test_every_question_is_used_once_before_any_is_repeated() -> None:
    batches = Batches(IDS, SHARES, 8, 3)
    seen = Counter(i.question for step in range(40) for i in batches.at(step) if i.task == 0)
    assert set(seen.values()) == {7}


def test_the_weights_of_a_pass_are_those_of_the_objective() -> None:
    uneven = [[0.875 * (q + 1) / 820 for q in range(40)], [0.125 / 7] * 7]
    batches = Batches(IDS, uneven, 8, 1)
    steps = 280  # both tasks pass through their questions a whole number of times
    for task, shares in enumerate(uneven):
        sums = Counter[int]()
        for step in range(steps):
            for item in batches.at(step):
                if item.task == task:
                    sums[item.question] += item.weight / steps
        assert [sums[q] for q in range(len(shares))] == pytest.approx(shares)


def test_a_batch_depends_only_on_the_seed_and_the_step() -> None:
    first, second = Batches(IDS, SHARES, 16, 0), Batches(IDS, SHARES, 16, 0)
    second.at(9)
    assert [first.at(step) for step in range(12)] == [second.at(step) for step in range(12)]
    assert first.at(3) != Batches(IDS, SHARES, 16, 1).at(3)
