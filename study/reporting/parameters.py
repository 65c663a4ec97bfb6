"""The parameters of the merge that a report shows: weights by block, or a path of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectives.merge.recipe import Hop, MergeRecipe, as_path
from storage.trials import TrialRecord
from study.search.genome import Genome, MergeGenome, recipe_of
from study.search.history import search_trials
from study.search.paths.genome import PathGenome

_BOUND_MARGIN = 0.01
"""The distance from an end of its range, as a share of the range, at which a parameter is said to
be at a bound."""


@dataclass(frozen=True)
class MergeParameters:
    """The parameters of a merge, as a table for each of them."""

    trial: int
    scale: float
    models: Sequence[str]
    columns: Sequence[str]
    """A name for each block of layers and, if the study has filters, for each filter in it."""
    values: Mapping[str, Sequence[Sequence[float]]]
    """By parameter: a row for each model, a column for each of `columns`."""
    at_bound: int
    """The number of searched parameters that are at an end of their range, within 1% of it."""
    searched: int
    """The number of searched parameters."""


@dataclass(frozen=True)
class ScoreAtDepth:
    """The score of a search trial, and the number of layers of its path."""

    layers: int
    score: float


@dataclass(frozen=True)
class PathParameters:
    """A path through the layers of several models."""

    trial: int
    models: Sequence[str]
    num_layers: int
    """The layers of each model."""
    hops: Sequence[Hop]
    scores: Sequence[ScoreAtDepth]
    """The search trials, in the order of their slots."""

    @property
    def scaled(self) -> bool:
        """Whether any layer of the path is scaled."""
        return any(hop.scale != 1.0 for hop in self.hops)

    @property
    def text(self) -> str:
        """What distinguishes the path from its first model, in a sentence."""
        own = len(self.hops) - self.foreign
        parts = [f"{own} from {self.models[0]}"]
        parts += [f"{self.foreign} from other models"] if self.foreign else []
        parts += [f"{self.repeated} repeated"] if self.repeated else []
        parts += [f"{self.skipped} of the {self.num_layers} depths skipped"] if self.skipped else []
        differs = self.foreign or self.repeated or self.skipped or self.disordered
        scaled = ", with scales" if self.scaled else ""
        same = f" These are the layers of the first model in their order{scaled}."
        return f"{len(self.hops)} layers: {', '.join(parts)}.{'' if differs else same}"

    @property
    def disordered(self) -> bool:
        """Whether a layer follows one with a higher number."""
        layers = [hop.layer for hop in self.hops]
        return layers != sorted(layers)

    @property
    def foreign(self) -> int:
        """The number of layers that are not from the first model."""
        return sum(hop.model != self.models[0] for hop in self.hops)

    @property
    def repeated(self) -> int:
        """The number of layers that the path has already passed."""
        return len(self.hops) - len({(hop.model, hop.layer) for hop in self.hops})

    @property
    def skipped(self) -> int:
        """The number of depths that no layer of the path has."""
        return len(set(range(self.num_layers)) - {hop.layer for hop in self.hops})


def merge_parameters(record: TrialRecord, genome: Genome) -> MergeParameters | None:
    """Return the parameters of a merge, or None if the study searches a path.

    A parameter that the recipe has once for all blocks is repeated for each of them.
    """
    recipe = recipe_of(record, genome)
    if not isinstance(genome, MergeGenome) or not isinstance(recipe, MergeRecipe):
        return None
    sets = [*recipe.filters, "rest"] if recipe.filters else [""]
    blocks = range(len(genome.knots))
    values = {
        parameter: [
            [
                values_KMF[min(k, len(values_KMF) - 1)][m][f]
                for k in blocks
                for f in range(len(sets))
            ]
            for m in range(len(recipe.models))
        ]
        for parameter, values_KMF in recipe.values.items()
    }
    columns = [f"{knot} {name}".strip() for knot in genome.knots for name in sets]
    return MergeParameters(
        *(record.number, recipe.scale, list(recipe.models), columns, values),
        *(_count_at_bound(record, genome), len(genome.space)),
    )


def _count_at_bound(record: TrialRecord, genome: MergeGenome) -> int:
    """Return how many parameters are within 1% of the ends of their ranges."""
    shares = [r.share(record.params[name]) for name, r in genome.space.items()]
    return sum(not _BOUND_MARGIN < share < 1 - _BOUND_MARGIN for share in shares)


def path_parameters(
    record: TrialRecord, genome: Genome, records: Sequence[TrialRecord]
) -> PathParameters | None:
    """Return the path of a trial, or None if the study merges weights."""
    if not isinstance(genome, PathGenome):
        return None
    path = as_path(recipe_of(record, genome))
    assert path is not None
    scores = [
        ScoreAtDepth(len(genome.recipe(trial.params).hops), trial.value)
        for trial in search_trials(records)
        if trial.value is not None
    ]
    return PathParameters(record.number, genome.models, genome.num_layers, path.hops, scores)
