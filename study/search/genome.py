"""The search space: converts named parameters to a MergeRecipe, as mergekit-evolve does.

K: knots (blocks of layers, or the points of `smooth`), M: models, F: filters and the rest,
P: parameters of the method. A genotype lists its values in the order K, M, F, P. Parameters that
all models share follow in the order K, F, P.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from objectives.merge.catalogue import METHODS, Parameter, Value
from objectives.merge.recipe import MergeRecipe, Recipe, ValuesKMF
from storage.trials import TrialRecord
from study.config.errors import ConfigError
from study.config.genome import GenomeConfig, Range, SpaceConfig, references
from study.config.ranges import default_range

from .paths.genome import PathGenome
from .space import Baseline, start_value

UNIFORM_WEIGHTS = (0.5, 0.7, 0.85, 1.0)
"""Weights of the uniform merges in addition to 1/M."""
SCALE = "lambda"
MAX_EPSILON = 0.999
"""The largest epsilon of DELLA, as a share of the distance from the density to 0 or 1."""
T = TypeVar("T")


class MergeGenome:
    """The search space of a weight merge of models with `num_layers` layers.

    Raises ConfigError.
    """

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
        searched = [p for p in self._method.parameters if self._is_searched(p, space)]
        self._per_model = tuple(p for p in searched if p.per_model)
        self._shared = tuple(p for p in searched if not p.per_model)
        self.space = self._space(space)

    @property
    def reference(self) -> str:
        """The model whose architecture and vocabulary the merge has."""
        return self.base or self.models[0]

    @property
    def normalize(self) -> bool:
        normalize = self._config.normalize
        return bool(self._method.normalize) if normalize is None else normalize

    def recipe(self, params: Mapping[str, float]) -> MergeRecipe:
        """Return the merge at a point of the space."""
        scale = float(self._config.parameters.get(SCALE, 1.0))
        return self.decode([params[name] for name in self._names()], params.get(SCALE, scale))

    def decode(self, genotype: Sequence[float], scale: float = 1.0) -> MergeRecipe:
        """Return the merge of a genotype, as mergekit-evolve does: densities are clamped, signs are
        dropped unless negative weights are allowed, and slerp's values are unchanged."""
        P, count = len(self._per_model), len(self._per_model_names())
        values_KMFP = [
            self.read(self._per_model[i % P].name, value)
            for i, value in enumerate(genotype[:count])
        ]
        values = {
            p.name: self._nested(values_KMFP[i::P]) for i, p in enumerate(self._per_model)
        } | self._fixed_values()
        pairs = zip(genotype[count:], itertools.cycle(self._shared), strict=False)
        shared_KFP = [max(abs(value), parameter.least) for value, parameter in pairs]
        shared = {
            p.name: _batched(shared_KFP[i :: len(self._shared)], self._sets)
            for i, p in enumerate(self._shared)
        }
        return MergeRecipe(
            self._config.merge_method,
            self.models,
            None if self._method.base == "unused" else self.base,
            self._num_layers,
            _limit_epsilon(values),
            self.filters,
            self._config.smooth,
            self.normalize,
            scale,
            self._mask_seed,
            shared=shared,
            options=self._options(),
        )

    def mean(self, points: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the mean of points of the space."""
        return {name: sum(point[name] for point in points) / len(points) for name in points[0]}

    def read(self, parameter: str, value: float) -> float:
        """Return the value that `decode` uses for a value of a per-model parameter."""
        if parameter == "density":
            return min(abs(value), 1.0)
        keeps_sign = self._config.allow_negative_weights or self._method.pairwise
        return value if keeps_sign else abs(value)

    def baselines(self) -> list[Baseline]:
        """Return the base, each parent, and the uniform merges: one for each weight if the method
        has weights, else one with mergekit's defaults. A method that copies one model has none:
        the unscaled model is the parent."""
        baselines: list[Baseline] = []
        for label in [*filter(None, [self.base]), *self.models]:
            kind = "base" if label == self.base else "parent"
            if label not in [b.name for b in baselines]:
                recipe = MergeRecipe.single(label, self._num_layers)
                baselines.append(Baseline(label, kind, recipe, self._alone(label)))
        return baselines + self._uniform()

    def _uniform(self) -> list[Baseline]:
        if self._method.pairwise:
            return [self._halfway(pair) for pair in itertools.combinations(self.models, 2)]
        if self._method.copies_one_model:
            return []
        if self._method.parameter("weight") is None:
            return [Baseline("uniform", "uniform", self.recipe(p := self._default()), p)]
        weights = [1 / len(self.models)]
        if self._method.needs_base:
            weights += UNIFORM_WEIGHTS
        baselines = []
        for weight in dict.fromkeys(weights):
            params = self._point(dict.fromkeys(self.models, weight))
            recipe = self.recipe(params)
            if self._method.needs_base:
                values = self._filled(recipe, weight)
                recipe = replace(recipe, normalize=False, scale=1.0, values=values)
            baselines.append(Baseline(f"uniform {weight:.2f}", "uniform", recipe, params))
        if self.normalize and self._method.needs_base:
            params = self._point(dict.fromkeys(self.models, 1.0))
            name = "uniform normalized"
            baselines.append(Baseline(name, "uniform", self.recipe(params), params))
        return baselines

    def _default(self) -> dict[str, float]:
        """Return the point with mergekit's defaults, else the start values, within the bounds."""
        point = {}
        for name, range_ in self.space.items():
            parameter = self._method.parameter(name.split("/")[-1])
            default = None if parameter is None else parameter.default
            value = start_value(range_) if default is None else float(default)
            point[name] = range_.clip(value)
        return point

    def _halfway(self, pair: tuple[str, str]) -> Baseline:
        params = self._point({m: self.space[n].high for m in pair for n in self._names()[:1]})
        return Baseline("uniform " + " + ".join(pair), "uniform", self.recipe(params), params)

    def _filled(self, recipe: MergeRecipe, weight: float) -> dict[str, ValuesKMF]:
        """Return the recipe's values with this weight everywhere, even outside the bounds."""
        shape = self._nested([weight] * (len(self.knots) * len(self.models) * self._sets))
        return {**recipe.values, "weight": shape}

    def _alone(self, label: str) -> dict[str, float]:
        """Return the point with one model at weight 1 and maximum density, others at 0."""
        params = self._point({model: float(model == label) for model in self.models})
        ends = {name: self.space[name].high for name in params if name.endswith("/density")}
        return params | ends

    def _point(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the point with these weights or t by model, and the start values for the rest.

        Values are clipped to the bounds.
        """
        point = {name: start_value(range_) for name, range_ in self.space.items()}
        for name in self._names():
            model, parameter = name.split("/")[0], name.split("/")[-1]
            if self._per_model and parameter == self._per_model[0].name in ("weight", "t"):
                range_ = self.space[name]
                point[name] = range_.clip(weights.get(model, range_.low))
        if SCALE in point:
            point[SCALE] = self.space[SCALE].clip(1.0)
        return point

    def _knots(self) -> tuple[str, ...]:
        step = self._config.layer_granularity or self._num_layers
        if self._num_layers % step:
            divisors = [str(n) for n in range(1, self._num_layers + 1) if self._num_layers % n == 0]
            raise ConfigError(
                f"genome.layer_granularity: {step} does not divide the {self._num_layers} layers; "
                f"{', '.join(divisors)} do"
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
        parts = itertools.product(self.knots, self._set_names(), self._shared)
        return self._per_model_names() + [_joined(k, f, p.name) for k, f, p in parts]

    def _per_model_names(self) -> list[str]:
        parts = itertools.product(self.knots, self.models, self._set_names(), self._per_model)
        return [_joined(m, k, f, p.name) for k, m, f, p in parts]

    def _set_names(self) -> list[str]:
        return [*self.filters, "rest"] if self.filters else [""]

    def _is_searched(self, parameter: Parameter, space: SpaceConfig) -> bool:
        if parameter.name in self._config.parameters or not parameter.is_number:
            return False
        return self._range(parameter, space) is not None

    def _fixed_values(self) -> dict[str, ValuesKMF]:
        """Return the per-model parameters that the config sets, with the same value everywhere."""
        size = len(self.knots) * len(self.models) * self._sets
        return {
            p.name: self._nested([float(self._config.parameters[p.name])] * size)
            for p in self._method.parameters
            if p.per_model and p.name in self._config.parameters
        }

    def _options(self) -> dict[str, Value]:
        """Return the other parameters that the config sets."""
        return {
            name: value
            for name, value in self._config.parameters.items()
            if (p := self._method.parameter(name)) is not None and not p.per_model
        }

    def _space(self, space: SpaceConfig) -> dict[str, Range]:
        of = {p.name: self._range(p, space) for p in (*self._per_model, *self._shared)}
        ranges = {name: r for name in self._names() if (r := of[name.split("/")[-1]])}
        if len(ranges) < len(self._names()):
            raise ConfigError(
                "genome.filters: two filters, or a filter and the rest, have the same parameters"
            )
        scale = space.range_of(SCALE)
        ranges |= {SCALE: scale} if scale else {}
        if len(ranges) == 1:
            raise ConfigError(
                f"genome.layer_granularity: {self._config.merge_method} has one parameter here, "
                "and CMA-ES needs two; make blocks smaller, or use filters"
            )
        return ranges

    def _range(self, parameter: Parameter, space: SpaceConfig) -> Range | None:
        configured, config = space.range_of(parameter.name), self._config
        if configured is not None:
            return configured
        negative = config.allow_negative_weights
        return default_range(config.merge_method, parameter.name, negative)

    def _nested(self, flat_KMF: Sequence[float]) -> ValuesKMF:
        rows_KMF = _batched(flat_KMF, self._sets)
        return _batched(rows_KMF, len(self.models))


def _batched(items: Sequence[T], size: int) -> tuple[tuple[T, ...], ...]:
    return tuple(tuple(items[i : i + size]) for i in range(0, len(items), size))


def _joined(*parts: str) -> str:
    return "/".join(part.replace("/", ".") for part in parts if part)


def _limit_epsilon(values: dict[str, ValuesKMF]) -> dict[str, ValuesKMF]:
    """Limit DELLA's epsilon so that density - epsilon and density + epsilon stay within 0 to 1."""
    if "epsilon" not in values:
        return values
    pairs = zip(values["epsilon"], values["density"], strict=True)
    return values | {
        "epsilon": tuple(
            tuple(
                tuple(min(e, MAX_EPSILON * min(d, 1 - d)) for e, d in zip(es, ds, strict=True))
                for es, ds in zip(es_M, ds_M, strict=True)
            )
            for es_M, ds_M in pairs
        )
    }


Genome: TypeAlias = MergeGenome | PathGenome
"""The search space of a study."""


def recipe_of(record: TrialRecord, genome: Genome) -> Recipe:
    """Return the merge that a trial scored."""
    if record.baseline is None:
        return genome.recipe(record.params)
    return next(b.recipe for b in genome.baselines() if b.name == record.baseline)
