"""Tests of the optimiser of a gradient search, and of the chain rule for a genome."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from study.config.genome import GenomeConfig, SpaceConfig
from study.config.ranges import default_range
from study.search.ascent.ascent import Ascent, Hyperparameters, replay
from study.search.ascent.chain_rule import genome_gradient
from study.search.genome import MergeGenome
from tests.support.models import point

BOUNDS = {"a/weight": (0.0, 1.4), "a/density": (0.4, 1.0), "lambda": (-1.0, 3.0)}
START = {"a/weight": 0.7, "a/density": 0.7, "lambda": 1.0}


def gradients(count: int, seed: int = 0) -> list[dict[str, float]]:
    rng = random.Random(seed)
    return [{name: rng.gauss(0, 1) for name in BOUNDS} for _ in range(count)]


def test_the_first_step_moves_each_parameter_by_the_rate_of_its_range() -> None:
    ascent = Ascent(START, BOUNDS, Hyperparameters(steps=10, rate=0.05))
    assert ascent.params == pytest.approx(START)
    ascent.tell({"a/weight": 2.0, "a/density": -1e-3, "lambda": 0.0})
    assert ascent.params == pytest.approx({"a/weight": 0.63, "a/density": 0.73, "lambda": 1.0})


def test_the_steps_are_those_of_torch_adam() -> None:
    torch = pytest.importorskip("torch")
    low = np.array([low for low, _ in BOUNDS.values()])
    width = np.array([high - low for low, high in BOUNDS.values()])
    x = torch.tensor((np.array(list(START.values())) - low) / width, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    ascent = Ascent(START, BOUNDS, Hyperparameters(steps=8, rate=0.01, decay=1.0))
    for gradient in gradients(8):
        x.grad = torch.tensor(np.array(list(gradient.values())) * width)
        adam.step()
        ascent.tell(gradient)
    expected = low + x.detach().numpy() * width
    assert list(ascent.params.values()) == pytest.approx(expected, rel=1e-12)


def test_a_replay_proposes_the_same_bits() -> None:
    rule, gradients_ = Hyperparameters(steps=20, pull=0.1), gradients(20)
    ascent, proposed = Ascent(START, BOUNDS, rule), []
    for gradient in gradients_:
        proposed.append(ascent.params)
        ascent.tell(gradient)
    again = [replay(START, BOUNDS, rule, gradients_[:count]).params for count in range(20)]
    assert again == proposed


def test_parameters_stay_within_their_bounds() -> None:
    down = dict.fromkeys(BOUNDS, 1.0)
    ascent = replay(START, BOUNDS, Hyperparameters(steps=100, decay=1.0), [down] * 100)
    assert ascent.params == {name: low for name, (low, _) in BOUNDS.items()}
    assert ascent.finished


def test_the_rate_falls_to_0_in_the_last_steps() -> None:
    rule = Hyperparameters(steps=10, rate=0.04, decay=0.5)
    rates = [rule.rate_of(step) for step in range(11)]
    assert rates[:6] == [0.04] * 6
    assert rates[6:] == pytest.approx([0.032, 0.024, 0.016, 0.008, 0.0])


def test_a_pull_returns_an_ascent_to_its_start() -> None:
    away, still = [dict.fromkeys(BOUNDS, 1.0)] * 10, [dict.fromkeys(BOUNDS, 0.0)] * 60
    free = replay(START, BOUNDS, Hyperparameters(steps=70, decay=1.0), [*away, *still])
    pulled = replay(START, BOUNDS, Hyperparameters(steps=70, decay=1.0, pull=5.0), [*away, *still])
    assert pulled.distance < 0.1 < free.distance


def test_the_error_about_a_non_finite_gradient_names_the_parameter() -> None:
    with pytest.raises(ValueError, match="derivative with respect to lambda: nan"):
        Ascent(START, BOUNDS, Hyperparameters(steps=1)).tell(START | {"lambda": float("nan")})


OPTIONS: dict[str, dict[str, Any]] = {
    "one block": {"layer_granularity": 0},
    "a block a layer": {"layer_granularity": 1},
    "filters": {"layer_granularity": 2, "filters": ("self_attn", "mlp")},
    "smooth": {"layer_granularity": 2, "filters": ("mlp",), "smooth": True},
    "negative weights": {"layer_granularity": 2, "allow_negative_weights": True},
    "signs dropped": {"layer_granularity": 2, "space": {"weight": [-1.0, 1.0]}},
    "densities clamped": {"layer_granularity": 2, "space": {"density": [-0.5, 1.6]}},
    "lambda": {"layer_granularity": 2, "space": {"lambda": [0.5, 1.5]}},
    "a value that is set": {"layer_granularity": 2, "parameters": {"density": 0.6}},
    "a set lambda": {"layer_granularity": 2, "parameters": {"lambda": 0.6}},
    "epsilons bounded": {"layer_granularity": 1, "space": {"density": [0.02, 0.99]}},
}


def genome(method: str, space: Mapping[str, Any] | None = None, **fields: Any) -> MergeGenome:
    known = METHODS[method]
    config = GenomeConfig(
        models=("x", "y", "z")[: known.most],
        base_model=None if known.base == "unused" else "base",
        merge_method=method,
        **fields,
    )
    return MergeGenome(config, SpaceConfig.model_validate(space or {}), 4)


def scalar(recipe: MergeRecipe) -> tuple[float, dict[str, Any], dict[str, Any], float]:
    """Return a smooth function of all values of a recipe, and its derivatives."""
    total, slopes, parts = 2 * recipe.scale**2, [], []
    for kind in (recipe.values, recipe.shared):
        derivatives = {}
        for seed, (name, values) in enumerate(sorted(kind.items())):
            array = np.array(values)
            factor = np.random.default_rng(seed).normal(size=array.shape)
            total += float((factor * (array + array**2)).sum())
            derivatives[name] = factor * (1 + 2 * array)
        parts.append(derivatives)
    slopes = parts
    return total, slopes[0], slopes[1], 4 * recipe.scale


def check(
    search_genome: MergeGenome, params: Mapping[str, float], at: Callable[[float, int], float]
) -> None:
    """Compare with differences; `at` returns the two points of a parameter's difference."""
    _, values, shared, scale = scalar(search_genome.recipe(params))
    gradient = genome_gradient(search_genome, params, values, shared, scale)
    assert list(gradient) == list(search_genome.space)
    for name, value in params.items():
        high, low = at(value, 1), at(value, -1)
        ends = [scalar(search_genome.recipe({**params, name: end}))[0] for end in (high, low)]
        expected = (ends[0] - ends[1]) / (high - low)
        assert gradient[name] == pytest.approx(expected, rel=1e-5, abs=1e-5), name


def methods_with(space: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """Return the methods whose parameters can have these ranges and values."""
    wanted = set(space) | set(parameters)
    methods = []
    for name, known in METHODS.items():
        has = {p.name for p in known.parameters} | ({"lambda"} if known.has_lambda else set())
        if wanted <= has and any(default_range(name, p.name) for p in known.parameters):
            methods.append(name)
    return methods


CASES = [
    (method, option)
    for option, fields in OPTIONS.items()
    for method in methods_with(fields.get("space", {}), fields.get("parameters", {}))
    if not (METHODS[method].pairwise and {"smooth", "filters"} & set(fields))
    and not (method == "passthrough" and option == "one block")
]


@pytest.mark.parametrize(("method", "option"), CASES)
def test_the_chain_rule_agrees_with_differences_of_a_function_of_the_recipe(
    method: str, option: str
) -> None:
    fields = dict(OPTIONS[option])
    if len(METHODS[method].parameters) == 1 and not METHODS[method].parameters[0].per_model:
        fields["layer_granularity"] = 1  # a search needs two parameters
    search_genome = genome(method, **fields)
    for seed in range(3):
        check(search_genome, point(search_genome, seed), lambda value, sign: value + sign * 1e-6)


def test_at_a_bound_the_derivative_is_one_sided() -> None:
    search_genome = genome("dare_ties", layer_granularity=2)
    lowest = {name: r.low for name, r in search_genome.space.items()}
    check(search_genome, lowest, lambda value, sign: value + (1e-7 if sign > 0 else 0.0))
    highest = {name: r.high for name, r in search_genome.space.items()}
    check(search_genome, highest, lambda value, sign: value - (1e-7 if sign < 0 else 0.0))
