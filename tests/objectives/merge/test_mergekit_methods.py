"""Methods of mergekit are compared with mergekit's run of the exported recipe."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.merge_methods import merge_tensors
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from objectives.errors import MergeError
from objectives.merge import masks
from objectives.merge.catalogue import METHODS
from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from storage.trials import TrialRecord
from study.config.errors import ConfigError
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from study.search.jobs import Jobs
from study.search.sampler import Replay
from tests.support.models import by_mergekit, point

BY_MERGEKIT = [name for name, method in METHODS.items() if not method.native]
RANDOM = ("della", "della_linear")


@pytest.fixture(scope="module")
def family(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose norm weights differ too; in random models they are all 1."""
    root = tmp_path_factory.mktemp("uneven")
    for seed, (name, folder) in enumerate(family.items()):
        shutil.copytree(folder, root / name)
        tensors = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(seed)
        for tensor in tensors.values():
            tensor += 0.01 * torch.randn(tensor.shape, generator=generator)
        save_file(tensors, root / name / "model.safetensors", metadata={"format": "pt"})
    return {name: root / name for name in family}


def genome(method: str, space: dict[str, Any] | None = None, **fields: Any) -> MergeGenome:
    """Return a recipe over up to three models, with four layers in two blocks."""
    entry = METHODS[method]
    config = GenomeConfig(
        models=("x", "y", "z")[: entry.most],
        base_model=None if entry.base == "unused" else "base",
        merge_method=method,
        **{"layer_granularity": 2} | fields,
    )
    return MergeGenome(config, SpaceConfig.model_validate(space or {}), 4)


def recipe_of(search_genome: MergeGenome, seed: int = 1) -> MergeRecipe:
    recipe = search_genome.recipe(point(search_genome, seed))
    return MergeRecipe.from_dict(recipe.to_dict() | {"dtype": "float32"})


def sources_of(search_genome: MergeGenome, family: dict[str, Path]) -> Sources:
    return Sources(
        {label: family[label] for label in search_genome.references}, search_genome.reference
    )


def references(family: dict[str, Path]) -> dict[str, str]:
    return {label: str(path) for label, path in family.items()}


def both(
    recipe: MergeRecipe, sources: Sources, family: dict[str, Path], tmp_path: Path
) -> Iterator[tuple[str, Tensor, Tensor]]:
    theirs = by_mergekit(to_mergekit(recipe, references(family)), tmp_path / "out")
    ours = dict(MergeStream(sources).tensors(recipe))
    assert ours.keys() == theirs.keys()
    return ((name, ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", BY_MERGEKIT)
def test_a_merge_equals_mergekits_run_of_the_exported_recipe(
    method: str, family: dict[str, Path], tmp_path: Path
) -> None:
    space = {"density": [0.999999, 1.0]} if method in RANDOM else {}
    search_genome = genome(method, space)
    recipe = recipe_of(search_genome)
    if method in RANDOM:  # a density of 1 draws nothing
        whole = (((1.0,),) * 3,) * 2
        recipe = MergeRecipe.from_dict(
            recipe.to_dict() | {"values": {**recipe.values, "density": whole}}
        )
    for name, ours, theirs in both(recipe, sources_of(search_genome, family), family, tmp_path):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("breadcrumbs_ties", {"filters": ("mlp", "self_attn"), "parameters": {"rescale": True}}),
        ("breadcrumbs", {"smooth": True, "normalize": True, "parameters": {"lambda": 0.7}}),
        ("sce", {"filters": ("mlp",)}),
        ("sce", {"smooth": True, "layer_granularity": 1}),
        ("nuslerp", {"parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True}}),
        ("nuslerp", {"base_model": None}),
        ("multislerp", {"base_model": None, "parameters": {"normalize_weights": False}}),
        ("karcher", {"parameters": {"max_iter": 2, "tol": 1e-3}}),
        ("model_stock", {"parameters": {"filter_wise": True}}),
    ],
)
def test_blocks_filters_and_set_parameters_reach_mergekit(
    method: str, fields: dict[str, Any], family: dict[str, Path], tmp_path: Path
) -> None:
    search_genome = (
        genome(method, **fields) if "base_model" not in fields else baseless(method, fields)
    )
    for name, ours, theirs in both(
        recipe_of(search_genome, 2), sources_of(search_genome, family), family, tmp_path
    ):
        assert torch.equal(ours, theirs), name


def baseless(method: str, fields: dict[str, Any]) -> MergeGenome:
    config = GenomeConfig(
        models=("x", "y", "z")[: METHODS[method].most],
        merge_method=method,
        layer_granularity=2,
        **fields,
    )
    return MergeGenome(config, SpaceConfig(), 4)


@pytest.mark.parametrize("method", RANDOM)
def test_random_draws_depend_on_seed_and_tensor(
    method: str, family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    search_genome = genome(method)
    sources, recipe = sources_of(search_genome, family), recipe_of(search_genome)
    before = torch.get_rng_state()
    ours = dict(MergeStream(sources).tensors(recipe))
    assert torch.equal(torch.get_rng_state(), before)
    for info in sources.layout[:3]:
        drawn = iter(masks.key(0, f"draw {i}", info.name) for i in (1, 2, 3))

        def bernoulli(chances: Tensor, keys: Any = drawn) -> Tensor:
            uniform = (masks.draws(next(keys), chances.shape) + 0.5) / 65536
            return (uniform < chances).float()

        numbers = recipe.values_at(info.name, info.layer)
        monkeypatch.setattr(torch, "bernoulli", bernoulli)
        theirs = merge_tensors(
            [sources.read(label, info) for label in ("x", "y", "z", "base")],
            method,
            parameters={k: list(v) for k, v in numbers.items()}
            | {"normalize": METHODS[method].normalize},
            base_index=3,
        )
        monkeypatch.undo()
        assert torch.equal(ours[info.name], theirs), info.name


def test_the_same_recipe_yields_the_same_weights_in_any_order(family: dict[str, Path]) -> None:
    search_genome = genome("della")
    sources = sources_of(search_genome, family)
    one = dict(MergeStream(sources).tensors(recipe_of(search_genome)))
    stream = MergeStream(sources)
    for _ in stream.tensors(recipe_of(search_genome, 5)):
        torch.rand(3)
    again = dict(stream.tensors(recipe_of(search_genome)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    other = MergeRecipe.from_dict(recipe_of(search_genome).to_dict() | {"mask_seed": 1})
    assert not all(torch.equal(t, one[n]) for n, t in stream.tensors(other))


def test_large_tensors_are_sampled_the_same_each_time() -> None:
    """arcee_fusion estimates quartiles from a million random elements."""
    from objectives.merge.mergekit_methods import Draws

    tensor = torch.randn(1100, 1000, generator=torch.Generator().manual_seed(0))
    other = tensor + 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))

    def draw(name: str, shape: torch.Size, device: torch.device) -> Tensor:
        return masks.draws(masks.key(0, name, "t"), shape, device)

    results = []
    for _ in range(2):
        torch.rand(1)
        with Draws(draw):
            results.append(merge_tensors([tensor, other], "arcee_fusion", base_index=0))
    assert torch.equal(*results)
    whole = merge_tensors([tensor[:900], other[:900]], "arcee_fusion", base_index=0)
    shares = [
        (m != b).float().mean().item() for m, b in ((results[0], tensor), (whole, tensor[:900]))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_elements_of_equal_magnitude_are_sorted_alike_on_every_device() -> None:
    """On a GPU, sorting is unstable by default."""
    from objectives.merge.mergekit_methods import Draws

    stable_flags = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            stable_flags.append((kwargs or {}).get("stable"))
            return func(*args, **(kwargs or {}))

    numbers = torch.ones(1000)
    with Recorder(), Draws(lambda *_: numbers):
        orders = [
            torch.argsort(numbers, descending=True),
            torch.sort(numbers).indices,
            numbers.argsort(),
            numbers.sort(descending=True).indices,
        ]
    assert all(torch.equal(order, torch.arange(1000)) for order in orders)
    assert stable_flags.count(True) == 4


def test_dellas_epsilon_keeps_the_probabilities_within_0_and_1(family: dict[str, Path]) -> None:
    search_genome = genome("della", {"density": [0.01, 1.0], "epsilon": [0.2, 0.5]}, smooth=True)
    sources = sources_of(search_genome, family)
    for seed in range(3):
        recipe = recipe_of(search_genome, seed)
        for epsilons, densities in zip(
            recipe.values["epsilon"], recipe.values["density"], strict=True
        ):
            for e, d in zip(epsilons, densities, strict=True):
                assert d[0] - e[0] > 0
                assert d[0] + e[0] < 1
        assert all(torch.isfinite(t).all() for _, t in MergeStream(sources).tensors(recipe))


def test_equal_tensors_stay_unchanged(family: dict[str, Path]) -> None:
    """multislerp has no mean of deltas that are all zero, so mergekit refuses them."""
    config = GenomeConfig(models=("x", "y", "z"), base_model="base", merge_method="multislerp")
    search_genome = MergeGenome(config, SpaceConfig(), 4)
    same = dict.fromkeys(search_genome.references, family["x"])
    sources = Sources(same, "base")
    merged = dict(MergeStream(sources).tensors(recipe_of(search_genome)))
    for info in sources.layout:
        assert torch.equal(merged[info.name], sources.read("x", info))


def test_an_error_of_mergekit_is_reported_with_the_tensor(family: dict[str, Path]) -> None:
    search_genome = genome("multislerp")
    recipe = MergeRecipe.from_dict(
        recipe_of(search_genome).to_dict()
        | {"values": {"weight": (((0.0,),) * 3,)}, "options": {"normalize_weights": False}}
    )
    with pytest.raises(MergeError, match=r"multislerp cannot merge model\.embed_tokens\.weight: "):
        dict(MergeStream(sources_of(search_genome, family)).tensors(recipe))


@pytest.mark.parametrize("method", BY_MERGEKIT)
def test_every_method_has_meaningful_baselines(method: str, family: dict[str, Path]) -> None:
    search_genome = genome(method)
    kinds = [baseline.kind for baseline in search_genome.baselines()]
    assert kinds.count("parent") == len(search_genome.models)
    assert ("uniform" in kinds) == (method != "passthrough")
    stream = MergeStream(sources_of(search_genome, family))
    for baseline in search_genome.baselines():
        assert baseline.params.keys() == search_genome.space.keys()
        assert all(
            search_genome.space[n].low <= v <= search_genome.space[n].high
            for n, v in baseline.params.items()
        )
        if baseline.kind == "uniform":
            assert all(torch.isfinite(t).all() for _, t in stream.tensors(baseline.recipe))


@pytest.mark.parametrize("method", BY_MERGEKIT)
def test_a_recipe_is_unchanged_by_json(method: str) -> None:
    import json

    recipe = recipe_of(genome(method))
    assert MergeRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_shared_parameters_have_one_value_for_each_block() -> None:
    search_genome = genome("sce", filters=("mlp",))
    assert list(search_genome.space) == [
        "layers.0-1/mlp/select_topk",
        "layers.0-1/rest/select_topk",
        "layers.2-3/mlp/select_topk",
        "layers.2-3/rest/select_topk",
    ]
    assert "model_stock" in METHODS
    assert genome("model_stock").space == {}


def test_a_method_without_search_parameters_ends_after_its_baselines() -> None:
    search_genome = genome("model_stock")
    jobs = Jobs(search_genome, Replay(search_genome.space, 0, 4, 0.2, []), 10)
    records: list[TrialRecord] = []
    while (job := jobs.next(records)) is not None:
        assert not jobs.done(records)
        n = len(records)
        records.append(
            TrialRecord(n, n, TrialState.COMPLETE, job.params, 0.5, dict(job.attributes))
        )
    assert [r.baseline for r in records] == ["base", "x", "y", "z", "uniform"]
    assert jobs.done(records)


def test_a_single_parameter_cannot_be_searched() -> None:
    with pytest.raises(ConfigError, match="sce has one parameter here"):
        genome("sce", layer_granularity=0)
    assert len(genome("sce", layer_granularity=0, filters=("mlp",)).space) == 2
