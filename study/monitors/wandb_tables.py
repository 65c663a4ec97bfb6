"""The tables and the configuration that Weights & Biases shows of a merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives.merge.mergekit_yaml import to_mergekit
from objectives.merge.path import to_passthrough
from objectives.merge.recipe import PathRecipe
from study.search.genome import Genome
from study.search.paths.genome import PathGenome


@dataclass(frozen=True)
class Table:
    """A genome as in mergekit-evolve's tables: one row per block, one column per parameter."""

    columns: list[str]
    rows: list[list[Any]]


def table(genome: Genome, params: Mapping[str, float], labelled: bool = True) -> Table:
    """Return the table of a point of the search space.

    The names of its parameters are model/block/[filter/]parameter; those of a path are
    position/parameter. A choice is shown by its label if `labelled`, else by its value.
    """
    if isinstance(genome, PathGenome):
        return _path_table(genome, params, labelled)
    columns: dict[str, None] = {}
    rows: dict[str, dict[str, float]] = {}
    for name, value in params.items():
        first, *rest = name.split("/")
        block = rest[0] if rest else "all"
        column = "_".join([first, *rest[-1:], *rest[1:-1]])
        columns[column] = None
        rows.setdefault(block, {})[column] = value
    cells = [[block, *(row.get(column) for column in columns)] for block, row in rows.items()]
    return Table(["block", *columns], cells)


def _path_table(genome: PathGenome, params: Mapping[str, float], labelled: bool) -> Table:
    rows: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        position, _, column = name.partition("/")
        is_label = labelled and column == "layer"
        rows.setdefault(position, {})[column] = genome.label(name, value) if is_label else value
    columns = list(next(iter(rows.values())))
    return Table(["block", *columns], [[p, *row.values()] for p, row in rows.items()])


def in_mergekit(genome: Genome, params: Mapping[str, float]) -> Mapping[str, Any] | None:
    """Return a merge as mergekit's configuration, or None if mergekit cannot make it."""
    recipe = genome.recipe(params)
    if isinstance(recipe, PathRecipe):
        return to_passthrough(recipe, genome.references)
    return to_mergekit(recipe, genome.references)
