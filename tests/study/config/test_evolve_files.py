"""Compatibility with the files and the options of mergekit-evolve."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.evo.config import EvolMergeConfiguration
from mergekit.evo.genome import METHOD_PARAM_MAPS, ModelGenome

from objectives.merge.mergekit_yaml import to_mergekit
from study.config.genome import GenomeConfig
from study.config.load import load_config
from study.config.study import StudyConfig
from study.config.task import TaskConfig
from study.search.genome import MergeGenome
from tests.support.models import MakeModel
from tests.support.paths import DEMO, ROOT

LAYERS = 8


@pytest.fixture(scope="module")
def models(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("evolve")
    return [str(make_model(root / name, 0, layers=LAYERS)) for name in ("base", "x", "y", "z")]


def _genome(method: str, models: list[str], draw: np.random.Generator) -> dict[str, Any]:
    """Return a random `genome` that mergekit-evolve accepts."""
    fields: dict[str, Any] = {
        "models": models[1 : draw.integers(3, 5)],
        "merge_method": method,
        "layer_granularity": int(draw.choice([0, 1, 2, 4, 8])),
        "allow_negative_weights": bool(draw.integers(2)),
    }
    if method not in ("linear", "slerp"):
        fields["base_model"] = models[0]
    if draw.integers(2):
        fields["normalize"] = bool(draw.integers(2))
    if method != "slerp":
        fields["smooth"] = bool(draw.integers(2))
        fields["filters"] = [None, ["mlp"], ["self_attn", "mlp"]][draw.integers(3)]
    return fields


@pytest.mark.parametrize("method", METHOD_PARAM_MAPS)
def test_a_file_has_the_same_meaning_as_in_mergekit_evolve(
    method: str, models: list[str], tmp_path: Path
) -> None:
    draw = np.random.default_rng(7)
    path = tmp_path / "evol_merge_config.yaml"
    for _ in range(12):
        text = yaml.safe_dump({"genome": _genome(method, models, draw), "tasks": ["mine"]})
        path.write_text(text)
        theirs = ModelGenome(EvolMergeConfiguration.model_validate(yaml.safe_load(text)).genome)
        config = load_config(path)
        ours = MergeGenome(config.genome, config.space, LAYERS)
        for _ in range(4):
            genotype = draw.normal(0.4, 0.7, theirs.initial_genotype().numel())
            recipe = ours.decode(genotype.tolist())
            mine = MergeConfiguration.model_validate(to_mergekit(recipe, ours.references))
            ignored = {"dtype", "out_dtype", "parameters"} if method == "slerp" else {"dtype"}
            assert _plain(mine, ignored) == _plain(theirs.genotype_merge_config(genotype), ignored)


def _plain(config: MergeConfiguration, ignored: set[str]) -> Any:
    """Return a config with rounded numbers, because mergekit computes a softmax in float32."""
    return _rounded(config.model_dump(mode="json", exclude=ignored | {"out_dtype"}))


def _rounded(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_rounded(value) for value in data]
    return round(data, 12) if isinstance(data, float) else data


def test_every_field_of_mergekit_evolve_is_supported_and_documented() -> None:
    theirs = EvolMergeConfiguration.model_fields
    assert theirs.keys() <= StudyConfig.model_fields.keys()
    [tasks] = theirs["tasks"].annotation.__args__  # type: ignore[union-attr]
    assert tasks.model_fields.keys() <= TaskConfig.model_fields.keys()
    genome: Any = theirs["genome"].annotation
    assert genome.model_fields.keys() <= GenomeConfig.model_fields.keys()
    page = (ROOT / "docs" / "from-mergekit-evolve.md").read_text()
    for name in (*theirs, *tasks.model_fields, *genome.model_fields):
        assert f"`{name}`" in page, name


def test_every_option_of_mergekit_evolve_is_documented() -> None:
    """The options are parsed from its source, which cannot be imported with current lm_eval."""
    spec = importlib.util.find_spec("mergekit")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "scripts" / "evolve.py").read_text()
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    flags = [
        argument.value.split("/")[0]
        for call in calls
        if ast.unparse(call.func) == "click.option"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
    ]
    assert len(flags) >= 20
    page = (ROOT / "docs" / "from-mergekit-evolve.md").read_text()
    for flag in flags:
        assert f"`{flag}`" in page, flag


def test_the_example_is_valid_in_mergekit_evolve() -> None:
    path = DEMO.parent / "mergekit-evolve" / "evol_merge_config.yaml"
    theirs = EvolMergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    ours = load_config(path)
    assert [(t.name, t.weight, t.metric) for t in theirs.tasks] == [
        (t.name, t.weight, t.metric) for t in ours.tasks
    ]
