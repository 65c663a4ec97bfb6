"""Models, genomes and recipes for the tests of derivatives."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from tests.support.models import MakeModel, point


def finetunes(make_model: MakeModel, root: Path, spread: float) -> dict[str, Path]:
    """Write a base and three finetunes, which are close to it and differ in norm."""
    folders = {
        name: make_model(root / name, seed, layers=2, hidden=64)
        for seed, name in enumerate(("base", "x", "y", "z"))
    }
    base = load_file(folders["base"] / "model.safetensors")
    for seed, name in enumerate(("x", "y", "z"), 1):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, tensor in base.items():
            size = tensor.std() if tensor.ndim > 1 else 0.25
            tensors[key] = tensor + spread * size * torch.randn(tensor.shape, generator=generator)
        save_file(tensors, folders[name] / "model.safetensors", metadata={"format": "pt"})
    return folders


def genome(method: str, **fields: object) -> MergeGenome:
    spec = METHODS[method]
    space = {"lambda": {"low": 0.5, "high": 1.5}} if spec.has_lambda else {}
    config = GenomeConfig(
        models=("x", "y", "z")[: spec.most],
        base_model=None if spec.base == "unused" else "base",
        merge_method=method,
        **{"layer_granularity": 1} | ({} if method == "slerp" else {"filters": ("mlp",)}) | fields,
    )
    return MergeGenome(config, SpaceConfig.model_validate(space), 2)


def recipe_of(search_genome: MergeGenome, seed: int = 3) -> MergeRecipe:
    """Return a merge that is not close to the bounds, in float32."""
    point_ = point(search_genome, seed)
    inside = {name: r.low + 0.2 * (r.high - r.low) for name, r in search_genome.space.items()}
    inside = {
        name: low + 0.6 * (point_[name] - search_genome.space[name].low)
        for name, low in inside.items()
    }
    return replace(search_genome.recipe(inside), dtype="float32")


def steps_of(search_genome: MergeGenome, share: float) -> dict[str, float]:
    return {
        name.split("/")[-1]: share * (r.high - r.low) for name, r in search_genome.space.items()
    }


def sources_of(search_genome: MergeGenome, family: Mapping[str, Path]) -> Sources:
    return Sources(
        {label: family[label] for label in search_genome.references}, search_genome.reference
    )


def changed(recipe: MergeRecipe, name: str, index: tuple[int, ...], by: float) -> MergeRecipe:
    """Return the recipe with one value changed."""
    if name == "lambda":
        return replace(recipe, scale=recipe.scale + by)
    kind = "values" if len(index) == 3 else "shared"
    array = np.array(getattr(recipe, kind)[name])
    array[index] += by
    data = recipe.to_dict()
    return MergeRecipe.from_dict(data | {kind: data[kind] | {name: array.tolist()}})
