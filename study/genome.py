"""The search space: named parameters in, a MergeRecipe out, with mergekit-evolve's meaning.

K: knots (blocks of layers, or smooth's points), M: models, F: filters and the rest,
P: parameters of the method. A genotype lists its values in the order K, M, F, P.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from objectives.merge.recipe import METHODS, MergeRecipe, ValuesKMF, labels

from .config import ConfigError, GenomeConfig, Range, SpaceConfig

UNIFORM_WEIGHTS = (0.5, 0.7, 0.85, 1.0)
"""The sweep of uniform merges, after 1/M: a tuned one of them is the baseline to beat."""
SCALE = "lambda"
T = TypeVar("T")


@dataclass(frozen=True)
class Baseline:
    """A merge that is scored beside the search and takes no place in it."""

    name: str
    kind: str
    """base, parent or uniform."""
    recipe: MergeRecipe
    params: Mapping[str, float]
    """Its point in the search space, or the nearest one where it lies outside."""


class Genome:
    """What is searched, for models of `num_layers` layers. Raises ConfigError."""

    def __init__(
        self, config: GenomeConfig, space: SpaceConfig, num_layers: int, mask_seed: int = 0
    ) -> None:
        self._config, self._num_layers, self._mask_seed = config, num_layers, mask_seed
        self._method = METHODS[config.merge_method]
        self.references = references(config)
        label_of = {reference: label for label, reference in self.references.items()}
        self.models = tuple(label_of[model] for model in config.models)
        self.base = label_of[config.base_model] if config.base_model else None
        self.filters = tuple(config.filters or ())
        self.knots = self._knots()
        self.space = self._space(space)

    @property
    def reference(self) -> str:
        """The model that gives the merge its architecture and vocabulary."""
        return self.base or self.models[0]

    @property
    def normalize(self) -> bool:
        given = self._config.normalize
        return self._method.normalize if given is None else given

    def recipe(self, params: Mapping[str, float]) -> MergeRecipe:
        """The merge at a point of the space."""
        return self.decode([params[name] for name in self._names()], params.get(SCALE, 1.0))

    def decode(self, genotype: Sequence[float], scale: float = 1.0) -> MergeRecipe:
        """mergekit-evolve's reading of a genotype: densities are clamped, signs are dropped
        unless negative weights are allowed, slerp's numbers stay as they are."""
        parameters = self._method.parameters
        values_KMFP = [
            _read(parameters[i % len(parameters)], value, self._config)
            for i, value in enumerate(genotype)
        ]
        values = {
            name: self._folded(values_KMFP[p :: len(parameters)])
            for p, name in enumerate(parameters)
        }
        slerp = self._config.merge_method == "slerp"
        return MergeRecipe(
            self._config.merge_method,
            self.models,
            None if slerp or not self._method.needs_base else self.base,
            self._num_layers,
            values,
            self.filters,
            self._config.smooth,
            self.normalize,
            scale,
            self._mask_seed,
        )

    def baselines(self) -> list[Baseline]:
        """The base, each parent alone, and uniform merges over a sweep of weights."""
        found: list[Baseline] = []
        for label in [*filter(None, [self.base]), *self.models]:
            kind = "base" if label == self.base else "parent"
            if label not in [b.name for b in found]:
                recipe = MergeRecipe.single(label, self._num_layers)
                found.append(Baseline(label, kind, recipe, self._alone(label)))
        return found + self._uniform()

    def _uniform(self) -> list[Baseline]:
        if self._config.merge_method == "slerp":
            return [self._halfway(pair) for pair in itertools.combinations(self.models, 2)]
        weights = [1 / len(self.models)]
        if self._method.needs_base:
            weights += UNIFORM_WEIGHTS
        found = []
        for weight in dict.fromkeys(weights):
            params = self._point(dict.fromkeys(self.models, weight))
            recipe = self.recipe(params)
            if self._method.needs_base:
                values = self._filled(recipe, weight)
                recipe = replace(recipe, normalize=False, scale=1.0, values=values)
            found.append(Baseline(f"uniform {weight:.2f}", "uniform", recipe, params))
        if self.normalize and self._method.needs_base:
            params = self._point(dict.fromkeys(self.models, 1.0))
            name = "uniform normalized"
            found.append(Baseline(name, "uniform", self.recipe(params), params))
        return found

    def _halfway(self, pair: tuple[str, str]) -> Baseline:
        params = self._point({m: self.space[n].high for m in pair for n in self._names()[:1]})
        return Baseline("uniform " + " + ".join(pair), "uniform", self.recipe(params), params)

    def _filled(self, recipe: MergeRecipe, weight: float) -> dict[str, ValuesKMF]:
        """The recipe's values with this weight everywhere, also outside the search's bounds."""
        shape = self._folded([weight] * (len(self.knots) * len(self.models) * self._sets))
        return {**recipe.values, "weight": shape}

    def _alone(self, label: str) -> dict[str, float]:
        """One model at weight 1 and full density, the others at 0."""
        params = self._point({model: float(model == label) for model in self.models})
        ends = {name: self.space[name].high for name in params if name.endswith("/density")}
        return params | ends

    def _point(self, first: Mapping[str, float]) -> dict[str, float]:
        """A uniform point: this value for each model's weight or t, the start for the rest.

        Values outside the bounds become the nearest inside.
        """
        point = {name: _start(range_) for name, range_ in self.space.items()}
        for name in self._names():
            model, parameter = name.split("/")[0], name.split("/")[-1]
            if parameter == self._method.parameters[0]:
                low, high = self.space[name].low, self.space[name].high
                point[name] = min(max(first.get(model, low), low), high)
        if SCALE in point:
            point[SCALE] = min(max(1.0, self.space[SCALE].low), self.space[SCALE].high)
        return point

    def _knots(self) -> tuple[str, ...]:
        step = self._config.layer_granularity or self._num_layers
        if self._num_layers % step:
            fits = [str(n) for n in range(1, self._num_layers + 1) if self._num_layers % n == 0]
            raise ConfigError(
                f"genome.layer_granularity: {step} does not divide the {self._num_layers} layers; "
                f"{', '.join(fits)} do"
            )
        starts = range(0, self._num_layers, step)
        if self._config.smooth:
            return tuple(f"knot.{i}" for i in range(len(starts)))
        return tuple(f"layers.{start}-{start + step - 1}" for start in starts)

    @property
    def _sets(self) -> int:
        return len(self.filters) + 1

    def _names(self) -> list[str]:
        """Parameter names in the order of a genotype."""
        sets = [*self.filters, "rest"] if self.filters else [""]
        parts = itertools.product(self.knots, self.models, sets, self._method.parameters)
        return ["/".join(filter(None, (m, k, f.replace("/", "."), p))) for k, m, f, p in parts]

    def _space(self, space: SpaceConfig) -> dict[str, Range]:
        low = -0.4 if self._config.allow_negative_weights else 0.0
        of = {
            "weight": space.weight or Range(low=low, high=1.4),
            "density": space.density,
            "t": space.t,
        }
        ranges = {name: of[name.split("/")[-1]] for name in self._names()}
        if len(ranges) < len(self._names()):
            raise ConfigError(
                "genome.filters: two of them, or one and the rest, give parameters of one name"
            )
        return ranges | ({SCALE: space.scale} if space.scale else {})

    def _folded(self, flat_KMF: Sequence[float]) -> ValuesKMF:
        rows_KMF = _batched(flat_KMF, self._sets)
        return _batched(rows_KMF, len(self.models))


def references(config: GenomeConfig) -> dict[str, str]:
    """Label to folder or hub id, of every model and the base."""
    names = list(dict.fromkeys([*config.models, *filter(None, [config.base_model])]))
    return dict(zip(labels(names), names, strict=True))


def _batched(items: Sequence[T], size: int) -> tuple[tuple[T, ...], ...]:
    return tuple(tuple(items[i : i + size]) for i in range(0, len(items), size))


def _start(range_: Range) -> float:
    return (range_.low + range_.high) / 2 if range_.start is None else range_.start


def _read(parameter: str, value: float, config: GenomeConfig) -> float:
    if parameter == "density":
        return min(abs(value), 1.0)
    keeps_sign = config.allow_negative_weights or config.merge_method == "slerp"
    return value if keeps_sign else abs(value)
