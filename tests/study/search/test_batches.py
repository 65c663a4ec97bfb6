"""The batches of a search by gradient."""

from collections import Counter

import pytest

from study.search.ascent.batches import Batches, parts

IDS = ([*range(100, 140)], [*range(7)])
SHARES = ([0.875 / 40] * 40, [0.125 / 7] * 7)


def test_a_task_has_the_places_of_its_share() -> None:
    for size in (8, 24, 96):
        batches = Batches(IDS, SHARES, size, 0)
        assert batches.size == size
        assert Counter(item.task for item in batches.at(0)) == {0: size * 7 // 8, 1: size // 8}
    assert Batches(IDS, SHARES, 3, 0).size == 3


def test_every_question_comes_once_before_one_comes_again() -> None:
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


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    first, second = Batches(IDS, SHARES, 16, 0), Batches(IDS, SHARES, 16, 0)
    second.at(9)
    assert [first.at(step) for step in range(12)] == [second.at(step) for step in range(12)]
    assert first.at(3) != Batches(IDS, SHARES, 16, 1).at(3)


def test_parts_hold_each_item_once() -> None:
    batch = Batches(IDS, SHARES, 16, 0).at(2)
    split = parts(batch, 5)
    assert len(split) == 5
    assert Counter(item for part in split for item in part) == Counter(batch)
    assert len(parts(batch[:2], 5)) == 2
