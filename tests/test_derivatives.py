"""The derivative of a loss by a merge's numbers, against differences of the merge in float64."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import MakeModel, point
from torch import Tensor

from objectives.merge import contraction, masks
from objectives.merge.catalogue import METHODS
from objectives.merge.derivatives import Derivatives
from objectives.merge.recipe import MergeRecipe
from objectives.merge.slots import RecipeGradient, refused
from objectives.merge.sources import Sources
from objectives.merge.stream import MergeStream
from study.genome import Genome
from study.genome_config import GenomeConfig, SpaceConfig

FUSED = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties")
JUMPS = {"ties", "dare_ties", "della", "breadcrumbs_ties", "sce"}
"""Methods that elect a sign, so that even a weight's derivative is a mean over jumps."""


@pytest.fixture(scope="module")
def family(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finetunes of one base, as finetunes are: near it, and of uneven norms."""
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("derivatives")
    folders = {
        name: make_model(root / name, seed, layers=2, hidden=64)
        for seed, name in enumerate(("base", "x", "y", "z"))
    }
    base = load_file(folders["base"] / "model.safetensors")
    for seed, name in enumerate(("x", "y", "z"), 1):
        generator = torch.Generator().manual_seed(seed)
        near = {
            key: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) * tensor.std()
            if tensor.ndim > 1
            else tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
            for key, tensor in base.items()
        }
        save_file(near, folders[name] / "model.safetensors", metadata={"format": "pt"})
    return folders


def genome(method: str, **fields: object) -> Genome:
    known = METHODS[method]
    space = {"lambda": {"low": 0.5, "high": 1.5}} if known.has_lambda else {}
    config = GenomeConfig(
        models=("x", "y", "z")[: known.most],
        base_model=None if known.base == "unused" else "base",
        merge_method=method,
        **{"layer_granularity": 1, "filters": ("mlp",)} | fields,
    )
    return Genome(config, SpaceConfig.model_validate(space), 2)


def recipe_of(made: Genome, seed: int = 3) -> MergeRecipe:
    inside = {
        name: r.low
        + (0.2 + 0.6 * (point(made, seed)[name] - r.low) / (r.high - r.low)) * (r.high - r.low)
        for name, r in made.space.items()
    }
    return replace(made.recipe(inside), dtype="float32")


def steps_of(made: Genome, share: float) -> dict[str, float]:
    return {name.split("/")[-1]: share * (r.high - r.low) for name, r in made.space.items()}


def sources_of(made: Genome, family: Mapping[str, Path]) -> Sources:
    return Sources({label: family[label] for label in made.references}, made.reference)


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


def changed(recipe: MergeRecipe, name: str, place: tuple[int, ...], by: float) -> MergeRecipe:
    """The recipe with one of its values changed."""
    if name == "lambda":
        return replace(recipe, scale=recipe.scale + by)
    kind = "values" if len(place) == 3 else "shared"
    array = np.array(getattr(recipe, kind)[name])
    array[place] += by
    whole = recipe.to_dict()
    return MergeRecipe.from_dict(whole | {kind: whole[kind] | {name: array.tolist()}})


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
    if method in ("karcher",):
        assert not made.space
        return
    stream = MergeStream(sources_of(made, family))
    pairs = differences(stream, recipe_of(made), steps_of(made, 0.02), slopes(stream.sources))
    for name, (ours, theirs) in pairs.items():
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        print(method, name, f"{error:.2e}", ours[:4], theirs[:4])
        assert error < 1e-2 or not theirs.any(), (name, ours, theirs)
