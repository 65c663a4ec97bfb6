"""The derivative of a loss by a merge's numbers, against differences of the merge in float64."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from objectives.derivatives import contraction
from objectives.derivatives.derivatives import Derivatives
from objectives.derivatives.variables import RecipeGradient, without_derivative
from objectives.merge import masks
from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.ranges import default_range
from tests.support.derivatives import changed, finetunes, genome, recipe_of, sources_of, steps_of
from tests.support.models import MakeModel

FUSED = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties")


@pytest.fixture(scope="module")
def family(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return finetunes(make_model, tmp_path_factory.mktemp("derivatives"), 0.2)


def slopes(sources: Sources) -> dict[str, Tensor]:
    """d loss / d W of a linear loss, the same direction in every element plus noise."""
    generator = torch.Generator().manual_seed(9)
    return {
        info.name: torch.randn(info.shape, generator=generator) + 0.5 for info in sources.layout
    }


def derivative(
    stream: MergeStream,
    recipe: MergeRecipe,
    steps: Mapping[str, float],
    slope: Mapping[str, Tensor],
) -> RecipeGradient:
    derivatives = Derivatives(stream, steps)
    derivatives.begin(recipe)
    for name, tensor in slope.items():
        derivatives.add(name, tensor)
    return derivatives.total()


def loss(stream: MergeStream, recipe: MergeRecipe, slope: Mapping[str, Tensor]) -> float:
    merged = stream.tensors(recipe)
    return sum(float((slope[name].double() * tensor.double()).sum()) for name, tensor in merged)


def differences(
    stream: MergeStream,
    recipe: MergeRecipe,
    steps: Mapping[str, float],
    slope: Mapping[str, Tensor],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each parameter the gradient by ours and by differences of the loss, flat."""
    ours, pairs = derivative(stream, recipe, steps, slope), {}
    for name in steps:
        mine = ours.values.get(name, ours.shared.get(name, np.array(ours.scale)))
        theirs = np.zeros_like(mine)
        for place in np.ndindex(mine.shape):
            up, down = (
                loss(stream, changed(recipe, name, place, sign * steps[name]), slope)
                for sign in (1, -1)
            )
            theirs[place] = (up - down) / (2 * steps[name])
        pairs[name] = mine.ravel(), theirs.ravel()
    return pairs


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("model_stock", "arcee_fusion")])
def test_every_number_has_the_derivative_of_the_merge(method: str, family: dict[str, Path]) -> None:
    made = genome(method)
    if not made.space:
        assert method == "karcher"
        return
    stream = MergeStream(sources_of(made, family))
    recipe = recipe_of(made)
    if method.startswith("della"):  # as far from 0 and 1 as both may move
        middle = {"epsilon": (((0.1, 0.12),) * 3,) * 2, "density": (((0.6, 0.7),) * 3,) * 2}
        recipe = replace(recipe, values=recipe.values | middle)
    step = 1e-3 if method == "slerp" else 0.02  # not so far that another pair is merged
    pairs = differences(stream, recipe, steps_of(made, step), slopes(stream.sources))
    for name, (ours, theirs) in pairs.items():
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-2 or not theirs.any(), (name, ours, theirs)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["ties", "dare_ties", "task_arithmetic"])
def test_smooth_lines_and_normalised_sums_have_derivatives_too(
    method: str, normalize: bool, family: dict[str, Path]
) -> None:
    made = genome(method, smooth=True, normalize=normalize)
    stream = MergeStream(sources_of(made, family))
    pairs = differences(stream, recipe_of(made), steps_of(made, 0.02), slopes(stream.sources))
    for name, (ours, theirs) in pairs.items():
        assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs), name


def test_a_model_outside_slerps_pair_has_no_derivative(family: dict[str, Path]) -> None:
    made = genome("slerp")
    stream, recipe = MergeStream(sources_of(made, family)), recipe_of(made)
    t_KMF = derivative(stream, recipe, {"t": 0.02}, slopes(stream.sources)).values["t"]
    for knot, values in zip(t_KMF[..., 0], np.array(recipe.values["t"])[..., 0], strict=True):
        assert knot[values.argmin()] == 0.0
        first, second = values.argsort()[:-3:-1]
        assert knot[first] == pytest.approx(-knot[second], rel=1e-3)  # only their difference counts


def test_numbers_without_a_useful_derivative_are_named() -> None:
    assert set(without_derivative("karcher", ["max_iter", "tol"])) == {"max_iter", "tol"}
    assert not without_derivative("dare_ties", ["weight", "density", "lambda"])
    for method, known in METHODS.items():
        searched = [p.name for p in known.parameters if default_range(method, p.name)]
        assert not without_derivative(method, searched), (
            "what is searched by default has a derivative"
        )


def test_the_same_gradient_twice_is_the_same(family: dict[str, Path]) -> None:
    made = genome("dare_ties")
    stream, recipe = MergeStream(sources_of(made, family)), recipe_of(made)
    steps, slope = steps_of(made, 0.02), slopes(stream.sources)
    first, second = (derivative(stream, recipe, steps, slope) for _ in range(2))
    assert all(np.array_equal(first.values[n], second.values[n]) for n in first.values)


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The kernel in Triton's interpreter, where there is no GPU."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from objectives.derivatives import kernels

        yield kernels


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", FUSED)
@pytest.mark.parametrize("count", [1, 700, 3000])
def test_the_kernel_agrees_with_the_plain_arithmetic(
    kernels: ModuleType, method: str, normalize: bool, count: int
) -> None:
    generator = torch.Generator().manual_seed(count)
    M, P = 3, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    base = normal(count)
    models = [base + 0.1 * normal(count) for _ in range(M)]
    slope = normal(count).bfloat16()
    words = [masks.key(0, f"model {m}", "t") for m in range(M)]
    keys = np.array([low | high << 32 for low, high in words], np.uint64).view(np.int64)
    drawn = [masks.draws(word, base.shape) for word in words]
    elect = method.endswith("ties")
    numbers = torch.rand(2 * P, 3 * M + 2, generator=generator) + 0.3
    numbers[:, 2 * M : 3 * M] *= 0.05
    below = torch.randint(0, 65536, (2 * P, M), generator=generator, dtype=torch.int32)
    shares = torch.rand(2 * P, 2**M if elect and normalize else 1, generator=generator)
    drop, trim = method.startswith("dare"), method == "ties"
    origin = None if method == "linear" else base
    rest = numbers, below, shares
    ours = kernels.contract(
        *(slope, origin, models, torch.from_numpy(keys.copy()), *rest),
        *(drop, trim, elect, normalize),
    )
    how = trim, elect, normalize
    theirs = contraction.contract(slope, origin, models, drawn if drop else [], *rest, *how)
    size = slope.double().norm() * base.double().norm() + 1
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=float(1e-6 * size))
