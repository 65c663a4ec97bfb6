"""Tests of the sampler, with a fast objective instead of an engine and questions."""

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.trials import BASELINE, KIND, record
from study.config.genome import Range
from study.search.sampler import (
    default_population,
    start_of,
)
from study.search.state import Evaluation, SearchState, Slot
from tests.support.searches import (
    BOUNDS,
    DISTRIBUTIONS,
    POPULATION,
    SPACE,
    advance,
    claims,
    new,
    objective,
    proposals,
    sampler,
)


def test_an_interrupted_study_proposes_the_same_trials(database: str) -> None:
    whole = new(database, "whole")
    advance(whole, sampler(), 23)
    for parts in ((1, 22), (3, 9, 11), (5, 5, 13), (20, 3)):
        name = "-".join(map(str, parts))
        for part in parts:
            advance(new(database, name), sampler(), part)
        assert proposals(new(database, name)) == proposals(whole), name


def test_failed_trials_are_proposed_again_in_their_slot(database: str) -> None:
    whole, torn = new(database, "whole"), new(database, "torn")
    advance(whole, sampler(), 20)
    advance(torn, sampler(), 25, fail=frozenset({0, 4, 5, 11, 17}))
    assert proposals(torn) == proposals(whole)


def test_baselines_occupy_no_slot(database: str) -> None:
    plain, mixed = new(database, "plain"), new(database, "mixed")
    advance(plain, sampler(), 12)
    for i in range(3):
        params = {name: r.low for name, r in SPACE.items()}
        attributes = {BASELINE: f"{i}", KIND: "parent"}
        trial_id = claims(mixed).start(f"baseline {i}", params, DISTRIBUTIONS, attributes)
        claims(mixed).finish(trial_id, 1e9, {}, {}, {})
        advance(mixed, sampler(), 4)
    assert proposals(mixed) == proposals(plain)


def test_the_slot_of_a_running_trial_is_not_free(database: str) -> None:
    trials, search = new(database, "s"), sampler()
    places = []
    for _ in range(POPULATION):
        state = SearchState.of(trials.all(), POPULATION)
        place = state.free_slots()[0]
        places.append(place)
        params = search.replay.propose(place, state.finished)
        claims(trials).start(place.name, params, DISTRIBUTIONS, place.attributes)
    assert places == [Slot(0, slot) for slot in range(POPULATION)]
    assert SearchState.of(trials.all(), POPULATION).free_slots() == []


def test_only_trials_are_stored(database: str) -> None:
    trials = new(database, "s")
    advance(trials, sampler(), 12)
    assert trials.study._storage.get_study_system_attrs(trials.study._study_id) == {}
    assert all(not trial.system_attrs for trial in trials.frozen())


@given(st.permutations(range(2 * POPULATION)))
@settings(max_examples=25, deadline=None)
def test_the_order_in_which_a_generation_finishes_does_not_matter(order: list[int]) -> None:
    generations = [Slot(g, k) for g in range(2) for k in range(POPULATION)]
    replay = sampler().replay
    finished: dict[Slot, Evaluation] = {}
    for place in generations:
        params = replay.propose(place, finished)
        finished[place] = Evaluation(params, round(objective(params), 1))
    shuffled = {generations[i]: finished[generations[i]] for i in order}
    expected = replay.propose(Slot(2, 0), finished)
    assert sampler().replay.propose(Slot(2, 0), shuffled) == expected


def test_study_optimize_has_the_same_trials(tmp_path: object) -> None:
    trials, stock = new(f"sqlite:///{tmp_path}/a.db", "s"), sampler()
    advance(trials, sampler(), 13)
    study = optuna.create_study(sampler=stock, direction="maximize")
    study.optimize(lambda t: objective({n: t.suggest_float(n, *BOUNDS[n]) for n in SPACE}), 13)
    assert SearchState.of([record(t) for t in study.get_trials()]).finished == proposals(trials)


def test_proposals_differ_between_seeds_and_between_slots() -> None:
    one, two = (sampler(seed).replay.propose(Slot(0, 0), {}) for seed in (0, 1))
    assert one != two
    slots = [tuple(sampler().replay.propose(Slot(0, k), {}).values()) for k in range(POPULATION)]
    assert len(set(slots)) == POPULATION


def test_the_search_converges_to_the_optimum(tmp_path: object) -> None:
    trials = new(f"sqlite:///{tmp_path}/a.db", "s")
    advance(trials, sampler(), 200)
    first = np.mean([value for place, (_, value) in proposals(trials).items() if place[0] < 2])
    last = np.mean([value for place, (_, value) in proposals(trials).items() if place[0] > 37])
    assert last > first / 10


@pytest.mark.parametrize(
    ("parameters", "trials", "population"), [(48, 350, 15), (48, 351, 30), (24, 100, 13)]
)
def test_the_population_depends_on_parameters_and_budget(
    parameters: int, trials: int, population: int
) -> None:
    assert default_population(parameters, trials) == population


def test_the_start_is_configured_or_random() -> None:
    space = {"a": Range(low=0, high=2, start=0.5), "b": Range(low=-1, high=1)}
    assert start_of(space, 0, random=False) == [0.25, 0.5]
    assert start_of(space, 0, random=True) == start_of(space, 0, random=True)
    assert start_of(space, 0, random=True) != start_of(space, 1, random=True)


def test_parameters_of_another_space_are_refused() -> None:
    study = optuna.create_study(sampler=sampler(), direction="maximize")
    with pytest.raises(ValueError, match="other is not a parameter"):
        study.optimize(lambda t: t.suggest_float("other", 0, 1), 1)
