"""The search for a path: its space, its optimizer, and its replay, with a fast objective."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from cmaes import CatCMAwM

from objectives.merge.recipe import Hop, PathRecipe
from storage.trials import record
from study.config.errors import ConfigError
from study.config.genome import PathConfig, Range, SpaceConfig
from study.search.paths.genome import PathGenome
from study.search.paths.optimizer import MixedOptimizer
from study.search.paths.replay import PathReplay
from study.search.sampler import ReplaySampler, distributions
from study.search.space import Choice
from study.search.state import Evaluation, SearchState, Slot
from tests.support.searches import claims, new, proposals

POPULATION = 6
LAYERS = 5


def genome_of(space: Mapping[str, Any] | None = None, **fields: Any) -> PathGenome:
    config = PathConfig.model_validate({"kind": "layers", "models": ["m/a", "m/b"], **fields})
    return PathGenome(config, SpaceConfig.model_validate(space or {}), LAYERS)


def start_of(genome: PathGenome) -> dict[str, float]:
    return {
        name: float(p.start) if isinstance(p, Choice) else 1.0 for name, p in genome.space.items()
    }


def sampler(genome: PathGenome, seed: int = 3) -> ReplaySampler:
    first = genome.start_probabilities()
    return ReplaySampler(PathReplay(genome.space, seed, POPULATION, 1 / 6, first), genome.space)


def objective(genome: PathGenome, params: Mapping[str, float]) -> float:
    """Return a score that is highest for a path through the layers of `b` with scales of 1.2."""
    hops = genome.recipe(params).hops
    of_b = sum(hop.model == "b" for hop in hops)
    return of_b - sum((hop.scale - 1.2) ** 2 for hop in hops) - 0.5 * abs(len(hops) - LAYERS)


def advance(trials: Any, genome: PathGenome, count: int) -> None:
    search = sampler(genome)
    for _ in range(count):
        state = SearchState.of(trials.all(), POPULATION)
        slot = state.free_slots()[0]
        params = search.replay.propose(slot, state.finished)
        trial_id = claims(trials).start(
            slot.name, params, distributions(genome.space), slot.attributes
        )
        claims(trials).finish(trial_id, objective(genome, params), {}, {}, {})


@pytest.mark.parametrize("max_hops", [LAYERS, LAYERS + 1, 8, 9, 10, 23])
@pytest.mark.parametrize("fix_ends", [True, False])
def test_the_start_is_the_first_model(max_hops: int, fix_ends: bool) -> None:
    genome = genome_of(max_hops=max_hops, fix_ends=fix_ends, repeats=max_hops)

    assert genome.recipe(start_of(genome)) == PathRecipe.whole("a", LAYERS)
    assert genome.depths == sorted(genome.depths)
    assert set(genome.depths) == set(range(LAYERS))


def test_baselines_are_the_models_at_their_points() -> None:
    genome = genome_of(max_hops=7, fix_ends=False)

    for baseline in genome.baselines():
        assert baseline.kind == "parent"
        assert baseline.recipe.copied_model == baseline.name
        assert genome.recipe(baseline.params) == replaced_ends(baseline.name)


def replaced_ends(model: str) -> PathRecipe:
    """Return the path through a model with the embedding and the head of the first one."""
    return PathRecipe(PathRecipe.whole(model, LAYERS).hops, "a")


def test_ends_are_fixed_by_default() -> None:
    genome = genome_of(max_hops=7)
    names = [name for name in genome.space if name.endswith("/layer")]
    assert names == [f"hop.{position}/layer" for position in range(1, 6)]
    for seed in range(20):
        hops = genome.recipe(random_point(genome, seed)).hops
        assert (hops[0], hops[-1]) == (Hop("a", 0), Hop("a", LAYERS - 1))


def random_point(genome: PathGenome, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    return {
        name: float(rng.randrange(len(p.labels)))
        if isinstance(p, Choice)
        else rng.uniform(p.low, p.high)
        for name, p in genome.space.items()
    }


@pytest.mark.parametrize("window", [0, 1, 4, 100])
def test_a_position_has_layers_within_the_window(window: int) -> None:
    genome = genome_of(max_hops=7, window=window)
    for name, parameter in genome.space.items():
        if isinstance(parameter, Choice):
            depth = genome.depths[int(name[4])]
            layers = {int(label.split()[1]) for label in parameter.labels[1:]}
            expected = range(max(0, depth - window), min(LAYERS, depth + window + 1))
            assert layers == set(expected)
            assert parameter.labels[0] == "none"
            assert len(parameter.labels) == 1 + 2 * len(expected)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_layer_is_repeated_at_most_so_many_times(repeats: int) -> None:
    genome = genome_of(max_hops=20, window=4, repeats=repeats)
    most = 0
    for seed in range(50):
        hops = [(h.model, h.layer) for h in genome.recipe(random_point(genome, seed)).hops]
        counts = [hops.count(hop) for hop in hops]
        most = max(most, *counts)
    assert most == repeats


def test_a_path_without_layers_has_one() -> None:
    genome = genome_of(fix_ends=False)
    empty = {n: 0.0 if isinstance(p, Choice) else 1.0 for n, p in genome.space.items()}
    assert genome.recipe(empty).hops == (Hop("a", 0),)


def test_first_probabilities_are_those_of_the_start() -> None:
    genome = genome_of(max_hops=8, window=1)
    for name, probabilities in genome.start_probabilities().items():
        choice = genome.space[name]
        assert isinstance(choice, Choice)
        assert len(probabilities) == len(choice.labels)
        assert sum(probabilities) == pytest.approx(1.0)
        assert probabilities[choice.start] == pytest.approx(0.9)
        assert min(probabilities) > 0


def test_the_mean_has_the_most_frequent_choices() -> None:
    genome = genome_of(max_hops=5)
    layer, scale = "hop.1/layer", "hop.1/scale"
    points = [
        start_of(genome) | {layer: value, scale: size}
        for value, size in ((4.0, 0.5), (2.0, 1.0), (2.0, 1.4), (4.0, 0.7), (0.0, 0.4))
    ]
    mean = genome.mean(points)
    assert mean[layer] == 4.0  # as frequent as 2.0, but of an earlier point
    assert mean[scale] == pytest.approx(0.6)
    assert genome.mean([start_of(genome)]) == start_of(genome)


def test_the_penalty_counts_layers_beyond_those_of_a_model() -> None:
    genome = genome_of(max_hops=6, hop_penalty=0.25, repeats=9)
    start = start_of(genome)
    assert genome.penalty(genome.recipe(start)) == 0.0
    home = next(n for n, p in genome.space.items() if isinstance(p, Choice) and p.start)
    assert genome.penalty(genome.recipe(start | {home: 0.0})) == -0.25
    spare = next(n for n, p in genome.space.items() if isinstance(p, Choice) and not p.start)
    assert genome.penalty(genome.recipe(start | {spare: 1.0})) == 0.25


def test_models_that_cannot_be_scaled(caplog: pytest.LogCaptureFixture) -> None:
    plain = PathConfig.model_validate({"kind": "layers", "models": ["a", "b"]})
    genome = PathGenome(plain, SpaceConfig(), LAYERS, "they normalize")
    assert all(name.endswith("/layer") for name in genome.space)
    assert "not scaled: they normalize" in caplog.text

    for fields, space in (({"scale_layers": True}, {}), ({}, {"scale": [0.5, 2]})):
        config = PathConfig.model_validate({"kind": "layers", "models": ["a", "b"], **fields})
        with pytest.raises(ConfigError, match="cannot be scaled: they normalize"):
            PathGenome(config, SpaceConfig.model_validate(space), LAYERS, "they normalize")


def test_without_scales_only_layers_are_searched() -> None:
    genome = genome_of(scale_layers=False)
    assert all(name.endswith("/layer") for name in genome.space)
    assert all(hop.scale == 1.0 for hop in genome.recipe(random_point(genome, 1)).hops)


def test_fixed_ends_are_kept_if_their_layers_are_used_before() -> None:
    genome = genome_of(max_hops=9, window=4, repeats=1)
    last = "hop.7/layer"
    choice = genome.space[last]
    assert isinstance(choice, Choice)
    params = start_of(genome) | {last: float(choice.labels.index("a 4")), "hop.7/scale": 0.4}
    hops = genome.recipe(params).hops
    assert hops[-1] == Hop("a", 4)
    assert hops.count(Hop("a", 4, 0.4)) == 0
    for seed in range(200):
        hops = genome.recipe(random_point(genome, seed)).hops
        assert (hops[0], hops[-1]) == (Hop("a", 0), Hop("a", LAYERS - 1))


@pytest.mark.parametrize(
    ("range_", "start"), [([0.4, 1.5], 1.0), ([1.1, 2.0], 1.1), ([0.1, 0.7], 0.7)]
)
def test_scales_start_at_one(range_: list[float], start: float) -> None:
    genome = genome_of({"scale": range_})
    scale = genome.space["hop.1/scale"]
    assert not isinstance(scale, Choice)
    assert scale.start == start
    assert genome_of({"scale": {"low": 0.5, "high": 2, "start": 0.6}}).space[
        "hop.1/scale"
    ] == Range(low=0.5, high=2, start=0.6)


@pytest.mark.parametrize(
    ("fields", "range_", "message"),
    [
        ({}, [-1, 1], "space.scale: must be at least 0, not -1"),
        ({"scale_layers": False}, [0.5, 1], "space.scale: has no effect with genome.scale_layers"),
    ],
)
def test_ranges_of_scales_that_make_no_sense(
    fields: dict[str, Any], range_: list[float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        genome_of({"scale": range_}, **fields)


def test_a_path_is_at_least_as_long_as_a_model() -> None:
    with pytest.raises(ConfigError, match=r"max_hops: must be at least the 5 layers"):
        genome_of(max_hops=4)


def optimizer(seed: int = 0) -> MixedOptimizer:
    first = [np.array([0.9, 0.05, 0.05]), np.array([0.5, 0.5])]
    return MixedOptimizer(np.full(3, 0.5), 1 / 6, first, POPULATION)


def value(point: Any) -> float:
    shares, indices = point
    return float(((shares - 0.7) ** 2).sum() + (indices[0] != 2) + 0.5 * (indices[1] != 0))


def test_the_optimizer_depends_on_what_it_was_told_alone() -> None:
    asking, listening = optimizer(), optimizer()
    for generation in range(8):
        points = [asking.ask(100 * generation + k) for k in range(POPULATION)]
        solutions = [(point, value(point)) for point in points]
        asking.tell(solutions)
        listening.tell(solutions)
    [(a, i), (b, j)] = asking.ask(1), listening.ask(1)
    assert a.tolist() == b.tolist()
    assert i.tolist() == j.tolist()


def test_the_optimizer_adapts_as_cmaes_does() -> None:
    ours = optimizer()
    theirs = CatCMAwM(
        x_space=[[0.0, 1.0]] * 3,
        c_space=[3, 2],
        population_size=POPULATION,
        mean=np.full(3, 0.5),
        sigma=1 / 6,
        cov=np.eye(3),
        cat_param=np.array([[0.9, 0.05, 0.05], [0.5, 0.5, 0.0]]),
    )
    for generation in range(5):
        points = [ours.ask(100 * generation + k) for k in range(POPULATION)]
        ours.tell([(point, value(point)) for point in points])
        solutions = []
        for point in points:
            shares, indices = point
            chosen = np.eye(3, dtype=bool)[indices]
            solutions.append((CatCMAwM.Solution(shares, None, chosen, shares.copy()), value(point)))
        theirs.tell(solutions)
    np.testing.assert_allclose(ours.mean, theirs._mean, rtol=1e-12)
    assert ours.sigma == pytest.approx(theirs._sigma, rel=1e-12)
    for row, expected in zip(ours.probabilities, theirs._q, strict=True):
        np.testing.assert_allclose(row, expected[: len(row)], rtol=1e-12)


def test_the_optimizer_finds_choices_and_numbers() -> None:
    search = optimizer()
    for generation in range(60):
        points = [search.ask(1000 * generation + k) for k in range(POPULATION)]
        search.tell([(point, value(point)) for point in points])
    assert [int(p.argmax()) for p in search.probabilities] == [2, 0]
    np.testing.assert_allclose(search.mean, 0.7, atol=0.05)


def test_the_optimizer_works_without_numbers() -> None:
    search = MixedOptimizer(np.zeros(0), 1 / 6, [np.full(3, 1 / 3)] * 4, POPULATION)
    for generation in range(40):
        points = [search.ask(1000 * generation + k) for k in range(POPULATION)]
        search.tell([((shares, i), float((i != 1).sum())) for shares, i in points])
    assert [int(p.argmax()) for p in search.probabilities] == [1, 1, 1, 1]
    assert search.sigma == 0.0


def test_an_interrupted_search_proposes_the_same_paths(database: str) -> None:
    genome = genome_of(max_hops=7)
    whole = new(database, "whole")
    advance(whole, genome, 20)
    for parts in ((1, 19), (6, 14), (7, 5, 8)):
        name = "-".join(map(str, parts))
        for part in parts:
            advance(new(database, name), genome, part)
        assert proposals(new(database, name)) == proposals(whole), name


def test_optuna_shows_layers_by_name(database: str) -> None:
    genome = genome_of(max_hops=7)
    trials = new(database, "s")
    advance(trials, genome, POPULATION)
    [first, *_] = trials.frozen()

    assert first.params["hop.1/layer"] == genome.label(
        "hop.1/layer", trials.all()[0].params["hop.1/layer"]
    )
    assert record(first).params == trials.all()[0].params
    assert {t.params["hop.1/layer"] for t in trials.frozen()} <= set(
        first.distributions["hop.1/layer"].choices
    )


def test_study_optimize_has_the_same_paths(tmp_path: object) -> None:
    genome = genome_of(max_hops=7)
    trials = new(f"sqlite:///{tmp_path}/a.db", "s")
    advance(trials, genome, 14)
    study = optuna.create_study(sampler=sampler(genome), direction="maximize")

    def run(trial: optuna.Trial) -> float:
        for name, parameter in genome.space.items():
            if isinstance(parameter, Choice):
                trial.suggest_categorical(name, parameter.labels)
            else:
                trial.suggest_float(name, parameter.low, parameter.high)
        frozen = study._storage.get_trial(trial._trial_id)
        return objective(genome, record(frozen).params)

    study.optimize(run, 14)
    assert SearchState.of([record(t) for t in study.get_trials()]).finished == proposals(trials)


def test_the_search_finds_the_better_path() -> None:
    genome = genome_of(max_hops=6, fix_ends=False, window=0)
    replay, finished = sampler(genome).replay, dict[Slot, Evaluation]()
    for generation in range(60):
        for number in range(POPULATION):
            slot = Slot(generation, number)
            params = replay.propose(slot, finished)
            finished[slot] = Evaluation(params, objective(genome, params))
    found = genome.recipe(replay.mean(60, finished))
    assert [hop.model for hop in found.hops] == ["b"] * len(found.hops)
    assert objective(genome, replay.mean(60, finished)) > objective(genome, start_of(genome)) + 4


def test_deviations_have_every_parameter() -> None:
    genome = genome_of(max_hops=7)
    deviations = sampler(genome).replay.deviations(0, {})
    assert list(deviations) == list(genome.space)
    assert deviations["hop.1/layer"] == pytest.approx(0.1)
    assert deviations["hop.1/scale"] == pytest.approx((1.5 - 0.4) / 6)
