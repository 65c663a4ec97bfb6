"""Tests that need a GPU (`pytest -m gpu`): its merges have the same bits as the CPU's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from objectives.merge.catalogue import METHODS as CATALOGUE
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Resident, Store, Streamed
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from tests.support.models import MakeModel, point
from tests.support.paths import DEMO

pytestmark = pytest.mark.gpu

METHODS = [name for name, method in CATALOGUE.items() if method.native]


@pytest.fixture(scope="module")
def sources(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Models with tensors of up to a million elements, one of them with an additional token."""
    root = tmp_path_factory.mktemp("gpu")
    folders = {
        name: make_model(
            root / name,
            seed,
            layers=3,
            hidden=1000,
            rows=1003 if name == "z" else 1001,
            dtype=torch.float32 if name == "y" else torch.bfloat16,
        )
        for seed, name in enumerate(("base", "x", "y", "z"))
    }
    return Sources(folders, "base")


@pytest.fixture(params=["gpu", "pinned", "file"])
def store(request: pytest.FixtureRequest, sources: Sources) -> Iterator[Store]:
    device = torch.device("cuda")
    merge: Store
    if request.param == "gpu":
        merge = Resident(sources, device)
    else:
        merge = Streamed(sources, device, pinned=request.param == "pinned")
    yield merge
    merge.close()


def recipe(method: str, seed: int, dtype: str) -> MergeRecipe:
    config = GenomeConfig(
        models=("x", "y", "z"),
        base_model=None if method in ("linear", "slerp") else "base",
        merge_method=method,
        layer_granularity=1,
        allow_negative_weights=method != "slerp",
    )
    genome = MergeGenome(config, SpaceConfig(), 3)
    return MergeRecipe.from_dict(genome.recipe(point(genome, seed)).to_dict() | {"dtype": dtype})


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32).cpu()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_on_the_gpu_has_the_same_bits_as_on_the_cpu(
    method: str, dtype: str, store: Store, sources: Sources
) -> None:
    ours, theirs = MergeStream(sources, store), MergeStream(sources)
    for seed in (1, 2):
        asked = recipe(method, seed, dtype)
        merge = {name: tensor.cpu() for name, tensor in ours.tensors(asked)}
        for name, tensor in theirs.tensors(asked):
            if method == "slerp":  # its dot products are added in an order of the device's own
                assert torch.allclose(merge[name].float(), tensor.float(), atol=1e-2), name
            else:
                assert torch.equal(bits(merge[name]), bits(tensor)), name


@pytest.mark.parametrize("method", [n for n, m in CATALOGUE.items() if not m.native])
def test_mergekits_methods_use_the_same_random_numbers_on_gpu_and_cpu(
    method: str, store: Store, sources: Sources
) -> None:
    """The order of sums differs, so a few elements may round differently or change their rank."""
    entry = CATALOGUE[method]
    config = GenomeConfig(
        models=("x", "y", "z")[: entry.most],
        base_model=None if entry.base == "unused" else "base",
        merge_method=method,
        layer_granularity=1,
    )
    genome = MergeGenome(config, SpaceConfig(), 3)
    asked = genome.recipe(point(genome, 3))
    merge = {
        name: tensor.cpu().float() for name, tensor in MergeStream(sources, store).tensors(asked)
    }
    for name, tensor in MergeStream(sources).tensors(asked):
        near = torch.isclose(merge[name], tensor.float(), rtol=1e-2, atol=1e-4)
        assert near.float().mean() > 0.999, name


def test_the_same_recipe_yields_the_same_bits(store: Store, sources: Sources) -> None:
    stream, asked = MergeStream(sources, store), recipe("dare_ties", 3, "bfloat16")
    first = {name: tensor.cpu() for name, tensor in stream.tensors(asked)}
    for _ in stream.tensors(recipe("dare_ties", 4, "bfloat16")):
        pass
    again = {name: tensor.cpu() for name, tensor in stream.tensors(asked)}
    assert all(torch.equal(bits(first[name]), bits(again[name])) for name in first)


def test_an_abandoned_merge_does_not_affect_the_next(store: Store, sources: Sources) -> None:
    stream, asked = MergeStream(sources, store), recipe("dare_ties", 3, "bfloat16")
    whole = {name: tensor.cpu() for name, tensor in stream.tensors(asked)}
    for stop in (1, 2, 7):
        for i, _ in enumerate(stream.tensors(recipe("dare_ties", 4, "bfloat16"))):
            if i == stop:
                break
    again = {name: tensor.cpu() for name, tensor in stream.tensors(asked)}
    assert all(torch.equal(bits(whole[name]), bits(again[name])) for name in whole)


def test_the_demos_models_merge_to_the_same_bits() -> None:
    names = ("numeric", "relations", "catalogue")
    folders = {name: DEMO / "models" / name for name in ("base", *names)}
    sources = Sources({label: Path(path) for label, path in folders.items()}, "base")
    config = GenomeConfig(
        models=names, base_model="base", merge_method="dare_ties", layer_granularity=4
    )
    genome = MergeGenome(config, SpaceConfig(), 32)
    asked = genome.recipe(point(genome, 5))
    stream = MergeStream(sources, Resident(sources, torch.device("cuda")))
    for (name, ours), (_, theirs) in zip(
        stream.tensors(asked), MergeStream(sources).tensors(asked), strict=True
    ):
        assert torch.equal(bits(ours), bits(theirs)), name
