"""The Triton kernels against the reference arithmetic: the same bits.

Without a GPU they run in Triton's interpreter, whose cast to bfloat16 cuts where a GPU rounds;
so the merges compared here are float32. tests/test_gpu.py compares on a GPU.
"""

import logging
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from objectives.merge import exact_sums as sums
from objectives.merge import masks, methods
from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Files
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from tests.support.models import MakeModel, point

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def fused() -> Iterator[ModuleType]:
    """The module with kernels that run in Triton's interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from objectives.merge import fused

        yield fused


@pytest.fixture(scope="module")
def sources(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Models whose tensors end within a block of the kernels, one of them in bfloat16."""
    root = tmp_path_factory.mktemp("kernels")
    folders = {
        name: make_model(
            root / name, seed, layers=2, dtype=torch.bfloat16 if name == "y" else torch.float32
        )
        for seed, name in enumerate(("base", "x", "y", "z"))
    }
    return Sources(folders, "base")


def recipes(method: str) -> list[MergeRecipe]:
    """Return a random recipe, and one with weights of 0 and below and densities of 0 and 1."""
    config = GenomeConfig(
        models=("x", "y", "z"),
        base_model=None if method == "linear" else "base",
        merge_method=method,
        layer_granularity=1,
        allow_negative_weights=True,
    )
    genome = MergeGenome(config, SpaceConfig(), 2)
    recipes = []
    for normalize in (True, False):
        whole = genome.recipe(point(genome, 3)).to_dict()
        edges = {"weight": (((0.0,), (-0.7,), (0.7,)),), "density": (((1.0,), (0.0,), (0.00002,)),)}
        for values in (whole["values"], {name: edges[name] for name in whole["values"]}):
            fields = {"normalize": normalize, "scale": 0.8, "dtype": "float32", "values": values}
            recipes.append(MergeRecipe.from_dict(whole | fields))
    return recipes


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.has_kernel])
def test_a_fused_merge_has_the_same_bits_as_the_reference(
    method: str, fused: ModuleType, sources: Sources
) -> None:
    kernels = fused.Fused(Files(sources), sources.layout)
    reference = MergeStream(sources)
    for recipe in recipes(method):
        ours, theirs = dict(kernels.tensors(recipe)), dict(reference.tensors(recipe))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor.view(torch.int32), theirs[name].view(torch.int32)), name


def test_norms_are_computed_once_for_all_merges_of_the_same_sources(
    fused: ModuleType, sources: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = recipes("dare_ties")[0]
    first = fused.Fused(Files(sources), sources.layout, sources.norm_tables)
    expected = dict(first.tensors(recipe))
    assert "computing the L1 norms of x, y, z" in caplog.text
    caplog.clear()
    second = fused.Fused(Files(sources), sources.layout, sources.norm_tables)
    for name, tensor in second.tensors(recipe):
        assert torch.equal(tensor, expected[name]), name
    assert not caplog.text

    interrupted = {k: v for k, v in sources.norm_tables.items() if k[1:] != ("y", name)}
    third = fused.Fused(Files(sources), sources.layout, interrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in third.tensors(recipe))
    assert "computing the L1 norms of y" in caplog.text


def test_merging_a_single_model_copies_it(fused: ModuleType, sources: Sources) -> None:
    kernels = fused.Fused(Files(sources), sources.layout)
    recipe = MergeRecipe.single("y", 2, "float32")
    for (_, tensor), info in zip(kernels.tensors(recipe), sources.layout, strict=True):
        assert torch.equal(tensor, sources.read("y", info).float())


@pytest.mark.parametrize("count", [1, 7, 1024, 5000])
def test_tables_contain_the_norm_of_every_mask(fused: ModuleType, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(count, generator=generator)
    model = base + 0.1 * torch.randn(count, generator=generator)
    delta, (low, high) = model - base, masks.key(0, "x", "t")
    quantum = sums.quantum(delta)
    table = fused.kernels.tally(base, model, fused._signed(low | high << 32), quantum)
    drawn = masks.draws((low, high), delta.shape)
    for below in (0, 1, 9000, 65535, 65536):
        assert table[below] == sums.quanta(torch.where(drawn < below, delta, 0.0), quantum)


def test_sums_do_not_depend_on_the_order_and_are_accurate() -> None:
    delta = torch.randn(100_000, generator=torch.Generator().manual_seed(2)) * 1e-3
    quantum = sums.quantum(delta)
    whole = sums.quanta(delta, quantum)
    assert whole == sums.quanta(delta.flip(0), quantum)
    assert whole * quantum == pytest.approx(delta.double().abs().sum().item(), rel=1e-8)
    assert sums.quanta(torch.zeros(5), sums.quantum(torch.zeros(5))) == 0
    assert sums.ratio(0, 0, 1.0) == 1.0


def test_trim_keeps_the_entries_above_its_threshold() -> None:
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    for density in (0.0, 0.001, 0.5, 0.999):
        cut = methods.smallest_kept(delta, density)
        assert torch.equal(methods.trim(delta, density), delta * (delta.abs() >= cut))
