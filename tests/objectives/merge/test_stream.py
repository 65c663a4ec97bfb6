"""Merged models are compared with `mergekit-yaml` on the exported recipe."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from tests.support.models import by_mergekit
from tests.support.paths import DEMO

PARENTS = ("numeric", "relations", "catalogue")


def _mergekit(recipe: MergeRecipe, references: dict[str, str], folder: Path) -> dict:
    config = folder / "merge.yml"
    config.write_text(yaml.safe_dump(to_mergekit(recipe, references)))
    command = Path(sys.executable).with_name("mergekit-yaml")
    result = subprocess.run(
        [command, config, folder / "out"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return load_file(folder / "out" / "model.safetensors")


def _genome(method: str, folder: Path, **fields: object) -> MergeGenome:
    config = GenomeConfig(
        models=tuple(str(folder / name) for name in PARENTS),
        base_model=None if method in ("linear", "slerp") else str(folder / "base"),
        merge_method=method,
        layer_granularity=4,
        **fields,
    )
    return MergeGenome(config, SpaceConfig(), 32)


def _sources(genome: MergeGenome) -> Sources:
    folders = {label: Path(path) for label, path in genome.references.items()}
    return Sources(folders, genome.reference)


def _point(genome: MergeGenome) -> dict[str, float]:
    generator = torch.Generator().manual_seed(11)
    shares = torch.rand(len(genome.space), generator=generator).tolist()
    return {n: r.low + u * (r.high - r.low) for (n, r), u in zip(genome.space.items(), shares)}  # noqa: B905


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("linear", {}),
        ("task_arithmetic", {"filters": ("mlp", "self_attn")}),
        ("task_arithmetic", {"smooth": True}),
        ("slerp", {}),
    ],
)
def test_a_merge_equals_mergekit_to_the_last_bit_but_one(
    method: str, fields: dict, tmp_path: Path
) -> None:
    genome = _genome(method, DEMO / "models", **fields)
    recipe = genome.recipe(_point(genome))
    theirs = by_mergekit(to_mergekit(recipe, genome.references), tmp_path)
    ours = dict(MergeStream(_sources(genome)).tensors(recipe))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype == torch.bfloat16
        gap = (tensor.view(torch.int16).int() - theirs[name].view(torch.int16).int()).abs()
        near_zero = tensor.float().abs() + theirs[name].float().abs() < 1e-6
        assert (gap[~near_zero] <= 1).all(), name


def test_dare_has_the_same_distribution_as_in_mergekit(tmp_path: Path) -> None:
    """The mean change, its magnitude and the fraction of unchanged weights are compared."""
    genome = _genome("dare_ties", DEMO / "models", normalize=False)
    point = {n: 0.5 if n.endswith("density") else 0.7 for n in genome.space}
    recipe = genome.recipe(point)
    theirs = _mergekit(recipe, genome.references, tmp_path)
    ours = dict(MergeStream(_sources(genome)).tensors(recipe))
    base = load_file(DEMO / "models" / "base" / "model.safetensors")
    moved = [
        torch.cat([(side[n].float() - base[n].float()).flatten() for n in base if "proj" in n])
        for side in (ours, theirs)
    ]
    sizes = [m.abs().mean().item() for m in moved]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    still = [(m == 0).float().mean().item() for m in moved]
    assert still[0] == pytest.approx(still[1], abs=0.005)
    spread = [m.std().item() for m in moved]
    assert spread[0] == pytest.approx(spread[1], rel=0.01)
    assert moved[0].mean().item() == pytest.approx(
        moved[1].mean().item(), abs=5 * spread[0] / len(moved[0]) ** 0.5
    )


def test_a_recipe_yields_the_same_weights_in_every_order_of_models(tmp_path: Path) -> None:
    genome = _genome("dare_linear", DEMO / "models")
    sources = _sources(genome)
    recipe = genome.recipe(_point(genome))
    one = dict(MergeStream(sources).tensors(recipe))
    again = dict(MergeStream(sources).tensors(recipe))
    assert all(torch.equal(one[name], again[name]) for name in one)
    turned = MergeRecipe.from_dict(
        recipe.to_dict()
        | {
            "models": recipe.models[::-1],
            "values": {
                name: [knot[::-1] for knot in values] for name, values in recipe.values.items()
            },
        }
    )
    other = dict(MergeStream(sources).tensors(turned))
    assert all(torch.allclose(one[n].float(), other[n].float(), atol=1e-2) for n in one)
    same = sum(torch.equal(one[n], other[n]) for n in one)
    assert same > len(one) / 2


def test_a_density_does_not_change_the_masks_of_other_models() -> None:
    genome = _genome("dare_linear", DEMO / "models", normalize=False)
    stream = MergeStream(_sources(genome))
    alone = {n: 0.5 if n.endswith("density") else 0.0 for n in genome.space}
    only = alone | {n: 1.0 for n in alone if n.startswith("numeric/") and n.endswith("weight")}
    other = only | {n: 0.9 for n in alone if n.startswith("catalogue/") and n.endswith("density")}
    one = dict(stream.tensors(genome.recipe(only)))
    two = dict(stream.tensors(genome.recipe(other)))
    assert all(torch.equal(one[name], two[name]) for name in one)
