"""The tables of a merge on Weights & Biases."""

from study.config.genome import GenomeConfig, PathConfig, SpaceConfig
from study.monitors.wandb_tables import in_mergekit, table
from study.search.genome import MergeGenome
from study.search.paths.genome import PathGenome
from study.search.space import Choice


def path_genome() -> PathGenome:
    config = PathConfig.model_validate({"kind": "layers", "models": ["a", "b"], "max_hops": 4})
    return PathGenome(config, SpaceConfig(), 3)


def start_of(genome: PathGenome) -> dict[str, float]:
    return {
        name: float(p.start) if isinstance(p, Choice) else 1.0 for name, p in genome.space.items()
    }


def test_a_path_has_a_row_for_each_position() -> None:
    genome = path_genome()
    shown = table(genome, start_of(genome))
    assert shown.columns == ["block", "layer", "scale"]
    assert shown.rows == [["hop.1", "none", 1.0], ["hop.2", "a 1", 1.0]]


def test_deviations_of_a_path_are_numbers() -> None:
    genome = path_genome()
    deviations = dict.fromkeys(genome.space, 0.25)
    assert table(genome, deviations, labelled=False).rows == [
        ["hop.1", 0.25, 0.25],
        ["hop.2", 0.25, 0.25],
    ]


def test_a_path_is_shown_as_a_passthrough() -> None:
    genome = path_genome()
    shown = in_mergekit(genome, start_of(genome))
    assert shown is not None
    assert shown["merge_method"] == "passthrough"
    assert [s["sources"][0]["layer_range"] for s in shown["slices"]] == [[0, 3]]


def test_a_weight_merge_has_a_row_for_each_block() -> None:
    config = GenomeConfig(models=("a", "b"), merge_method="linear", layer_granularity=1)
    genome = MergeGenome(config, SpaceConfig(), 2)
    points = {name: float(i) for i, name in enumerate(genome.space)}
    shown = table(genome, points)
    assert shown.columns == ["block", "a_weight", "b_weight"]
    assert shown.rows == [["layers.0-0", 0.0, 1.0], ["layers.1-1", 2.0, 3.0]]
