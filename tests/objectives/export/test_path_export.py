"""Exports of paths: ordinary model folders."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from objectives.engines.engine import Prompt
from objectives.engines.paths import PathEngine
from objectives.engines.transformers import TransformersEngine
from objectives.errors import SourceError
from objectives.export.export import changed_weights, export, is_export_of
from objectives.merge.recipe import Hop, MergeRecipe, PathRecipe
from objectives.models.sources import Sources
from tests.support.models import by_mergekit

PATH = PathRecipe(
    (Hop("x", 0), Hop("x", 1), Hop("y", 1, 0.75), Hop("y", 2), Hop("x", 2), Hop("x", 3)), "x"
)
PROMPTS = [Prompt(tuple(range(2, 2 + n)), 0, 4, (3, 4)) for n in (3, 6, 11)]


@pytest.fixture(scope="module")
def sources(family: dict[str, Path]) -> Sources:
    return Sources({name: family[name] for name in ("x", "y")}, "x", has_base=False)


def written(
    recipe: PathRecipe, sources: Sources, family: dict[str, Path], out: Path, **options: int
) -> Path:
    references = {name: str(family[name]) for name in ("x", "y")}
    return export(recipe, sources, references, out, "# a path", **options)


def test_an_exported_path_is_an_ordinary_model_that_answers_the_same(
    sources: Sources, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = written(PATH, sources, family, tmp_path / "path", shard_bytes=5_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == len(PATH.hops)
    assert model.dtype == torch.bfloat16
    paths = PathEngine(sources)
    paths.load(PATH)
    alone = TransformersEngine(Sources({"path": folder}, "path", has_base=False))
    alone.load(MergeRecipe.single("path", len(PATH.hops)))
    assert alone.answer(PROMPTS) == paths.answer(PROMPTS)
    assert not changed_weights(folder)
    assert is_export_of(folder, PATH, sources)
    assert not is_export_of(folder, PathRecipe(PATH.hops[:-1], "x"), sources)
    stored = json.loads((folder / "recipe.json").read_text())["recipe"]
    assert PathRecipe.from_dict(stored) == PATH


def test_mergekit_writes_the_same_weights_from_the_exported_recipe(
    sources: Sources, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = written(PATH, sources, family, tmp_path / "path")
    config = yaml.safe_load((folder / "mergekit_config.yml").read_text())
    theirs = by_mergekit(config, tmp_path / "mergekit")
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_path_that_mergekit_cannot_write_has_no_recipe_for_it(
    sources: Sources, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = written(PathRecipe((Hop("y", 0), Hop("x", 1)), "x"), sources, family, tmp_path / "p")
    assert not (folder / "mergekit_config.yml").exists()
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2


def test_a_path_of_a_missing_layer_writes_nothing(
    sources: Sources, family: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="x has no layer 9"):
        written(PathRecipe((Hop("x", 9),), "x"), sources, family, tmp_path / "p")
    assert not (tmp_path / "p").exists()
