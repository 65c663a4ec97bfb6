"""Tests that a genotype is decoded to the same configuration as by mergekit-evolve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition

from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.recipe import MergeRecipe, labels
from study.config.errors import ConfigError
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome

LAYERS = 8


@pytest.fixture(scope="module")
def models(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("genome")
    return {n: str(make_model(root / n, 0, layers=LAYERS)) for n in ("base", "x", "y", "z")}


def _both(models: dict[str, str], method: str, **fields: Any) -> tuple[MergeGenome, ModelGenome]:
    base = None if method in ("linear", "slerp") else models["base"]
    common = {"models": [models[n] for n in "xyz"], "base_model": base, "merge_method": method}
    own = MergeGenome(GenomeConfig(**common, **fields), SpaceConfig(), LAYERS)
    reference = ModelGenome(ModelGenomeDefinition(**common, **fields))
    return own, reference


def _comparable(config: MergeConfiguration) -> dict[str, Any]:
    data: dict[str, Any] = config.model_dump(mode="json", exclude={"dtype", "out_dtype"})
    return data


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties"])
@pytest.mark.parametrize("granularity", [0, 4, 8])
@pytest.mark.parametrize("filters", [None, ["self_attn", "mlp"]])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("negative", [False, True])
def test_a_genotype_is_decoded_as_by_mergekit_evolve(
    models: dict[str, str],
    method: str,
    granularity: int,
    filters: list[str] | None,
    smooth: bool,
    negative: bool,
) -> None:
    own, reference = _both(
        models,
        method,
        layer_granularity=granularity,
        filters=filters,
        smooth=smooth,
        allow_negative_weights=negative,
    )
    genotype = np.random.default_rng(1).normal(0.5, 0.6, reference.initial_genotype().numel())
    recipe = own.decode(genotype.tolist())
    decoded = MergeConfiguration.model_validate(to_mergekit(recipe, own.references))
    assert _comparable(decoded) == _comparable(reference.genotype_merge_config(genotype))


@pytest.mark.parametrize("granularity", [0, 4])
def test_slerp_merges_the_same_two_models_as_mergekit_evolve(
    models: dict[str, str], granularity: int
) -> None:
    own, reference = _both(models, "slerp", layer_granularity=granularity)
    genotype = np.random.default_rng(2).normal(0.5, 0.6, reference.initial_genotype().numel())
    decoded = to_mergekit(own.decode(genotype.tolist()), own.references)
    expected = reference.genotype_merge_config(genotype)
    for own_slice, slice_ in zip(decoded["slices"], expected.slices, strict=True):
        assert own_slice["base_model"] == str(slice_.base_model)
        assert [s["model"] for s in own_slice["sources"]] == [str(s.model) for s in slice_.sources]
        assert own_slice["parameters"]["t"] == pytest.approx(slice_.parameters["t"], abs=1e-12)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("filters", [None, ["self_attn", "mlp"]])
def test_every_tensor_has_the_same_parameters_as_in_mergekit(
    models: dict[str, str], smooth: bool, filters: list[str] | None
) -> None:
    """Compare the parameters that mergekit resolves from its file with those of the recipe."""
    from mergekit.config import ConfigReader
    from mergekit.merge_methods import get
    from mergekit.parameter_resolver import resolve_parameters

    own, reference = _both(models, "dare_ties", layer_granularity=2, filters=filters, smooth=smooth)
    genotype = np.random.default_rng(3).normal(0.5, 0.6, reference.initial_genotype().numel())
    recipe = own.decode(genotype.tolist())
    config = reference.genotype_merge_config(genotype)
    for layer, name in [(-1, "model.embed_tokens.weight"), (LAYERS, "lm_head.weight")] + [
        (i, f"model.layers.{i}.{part}.weight")
        for i in range(LAYERS)
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ]:
        inside = min(max(layer, 0), LAYERS - 1)
        reader = ConfigReader(config=config, t=inside / (LAYERS - 1) if layer == inside else 0)
        if smooth:
            sources = config.models
            reader = reader.model_copy(update={"slice_out": _as_slice(config)})
        else:
            reader = reader.for_out_slice(config.slices[inside // 2])
            sources = config.slices[inside // 2].sources
        _, per_model = resolve_parameters(
            get("dare_ties").spec,
            tensor_name=name,
            inputs={s.model: name for s in sources},
            sources=reader.parameter_sources,
            base_model=config.base_model,
            t=reader.t,
        )
        setting = recipe.at(name, layer)
        for label, weight, density in zip(
            setting.models, setting.weights, setting.densities, strict=True
        ):
            expected = per_model[ModelReference.model_validate(own.references[label])]
            assert weight == pytest.approx(expected["weight"], abs=1e-12)
            assert density == pytest.approx(expected["density"], abs=1e-12)


def _as_slice(config: MergeConfiguration) -> Any:
    from mergekit.config import InputSliceDefinition, OutputSliceDefinition

    return OutputSliceDefinition(
        sources=[
            InputSliceDefinition(model=m.model, layer_range=(0, LAYERS), parameters=m.parameters)
            for m in config.models
        ]
    )


def test_the_main_study_has_48_parameters_with_readable_names() -> None:
    config = GenomeConfig(
        models=("meta-math/MetaMath-Mistral-7B", "Nexusflow/Starling-LM-7B-beta", "./local/"),
        base_model="mistralai/Mistral-7B-v0.1",
        merge_method="dare_ties",
        layer_granularity=4,
    )
    genome = MergeGenome(config, SpaceConfig(), 32)
    assert len(genome.space) == 48
    assert list(genome.space)[:2] == [
        "MetaMath-Mistral-7B/layers.0-3/weight",
        "MetaMath-Mistral-7B/layers.0-3/density",
    ]
    assert list(genome.space)[-1] == "local/layers.28-31/density"


def test_lambda_is_a_parameter_if_the_space_has_it(models: dict[str, str]) -> None:
    config = GenomeConfig(
        models=(models["x"], models["y"]), base_model=models["base"], merge_method="ties"
    )
    genome = MergeGenome(config, SpaceConfig.model_validate({"lambda": [0.5, 1.5]}), LAYERS)
    assert "lambda" in genome.space
    point = {name: r.low for name, r in genome.space.items()}
    assert genome.recipe(point).scale == 0.5
    assert to_mergekit(genome.recipe(point), genome.references)["parameters"]["lambda"] == 0.5


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_recipe_can_be_restored_from_json_and_has_all_parameters(data: st.DataObject) -> None:
    import json

    method = data.draw(st.sampled_from(["linear", "task_arithmetic", "ties", "dare_ties"]))
    config = GenomeConfig(
        models=("a", "b"),
        base_model="c",
        merge_method=method,
        layer_granularity=data.draw(st.sampled_from([0, 1, 2, 4])),
        filters=data.draw(st.sampled_from([None, ("mlp",), ("mlp", "self_attn")])),
        allow_negative_weights=True,
    )
    genome = MergeGenome(config, SpaceConfig(), 4)
    point = {n: data.draw(st.floats(r.low, r.high)) for n, r in genome.space.items()}
    recipe = genome.recipe(point)
    assert MergeRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    values = [v for k in recipe.values.values() for row in k for model in row for v in model]
    assert sorted(values) == sorted(point.values())


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear", "slerp"])
def test_baselines_are_base_parents_and_uniform_merges(method: str) -> None:
    config = GenomeConfig(models=("a", "b", "c"), base_model="d", merge_method=method)
    genome = MergeGenome(config, SpaceConfig(), 4)
    kinds = [b.kind for b in genome.baselines()]
    assert kinds[:4] == ["base", "parent", "parent", "parent"]
    assert set(kinds[4:]) == {"uniform"}
    names = [b.name for b in genome.baselines()]
    assert len(set(names)) == len(names)
    for baseline in genome.baselines():
        assert baseline.params.keys() == genome.space.keys()
        for name, value in baseline.params.items():
            assert genome.space[name].low <= value <= genome.space[name].high


def test_two_models_have_each_uniform_merge_once() -> None:
    config = GenomeConfig(models=("a", "b"), base_model="d", merge_method="ties")
    names = [b.name for b in MergeGenome(config, SpaceConfig(), 4).baselines()]
    assert len(set(names)) == len(names)
    assert "uniform 0.50" in names


def test_filters_with_the_same_parameters_are_refused() -> None:
    config = GenomeConfig(
        models=("a", "b"), base_model="c", merge_method="ties", filters=("mlp", "mlp")
    )
    with pytest.raises(ConfigError, match="have the same parameters"):
        MergeGenome(config, SpaceConfig(), 4)


def test_the_error_about_a_granularity_lists_the_divisors() -> None:
    config = GenomeConfig(models=("a", "b"), merge_method="linear", layer_granularity=5)
    with pytest.raises(ConfigError, match=r"5 does not divide the 32 layers; 1, 2, 4, 8, 16, 32"):
        MergeGenome(config, SpaceConfig(), 32)


def test_labels_are_short_and_unique() -> None:
    assert labels(["org/m", "./p/q/", "a/same", "b/same", "org/n@v1"]) == (
        "m",
        "q",
        "a--same",
        "b--same",
        "n",
    )


def test_a_folder_written_by_the_study_is_found(tmp_path: Path) -> None:
    from objectives.errors import SourceError
    from objectives.models.locate import locate

    (tmp_path / "m").mkdir()
    assert locate("m", tmp_path) == tmp_path / "m"
    with pytest.raises(SourceError, match="no folder"):
        locate("./absent", tmp_path)
