"""The search space of a path through the layers of several models.

A path has `max_hops` positions, and each has a depth: the layer that a model without changes would
compute there. A position is empty, or has a layer of one of the models whose number differs from
the position's depth by at most `window`. Positions beyond the number of layers are spread evenly
over the path and are empty at the start of the search, so that the start is the first model whole.

N: positions of the path, L: layers of a model.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from objectives.merge.recipe import Hop, MergeRecipe, PathRecipe
from study.config.errors import ConfigError
from study.config.genome import PathConfig, Range, SpaceConfig, references
from study.search.space import Baseline, Choice, Space

log = logging.getLogger(__name__)

NONE = "none"
"""The label of an empty position."""
SCALES = Range(low=0.4, high=1.5, start=1.0)
_REST = 0.1
"""The probability of a first choice that differs from the start."""


class PathGenome:
    """The paths through models of `num_layers` layers. Raises ConfigError."""

    base = None

    def __init__(
        self,
        config: PathConfig,
        space: SpaceConfig,
        num_layers: int,
        unscalable: str | None = None,
    ) -> None:
        """`unscalable` is the reason why layers of these models cannot be scaled, or None."""
        self.config, self.num_layers = config, num_layers
        self.references = references(config)
        self.models = tuple(self.references)
        self.max_hops = self._max_hops()
        self._homes = frozenset(_homes(self.max_hops, num_layers))
        self.depths = [sum(home <= p for home in self._homes) - 1 for p in range(self.max_hops)]
        """The depth of each position."""
        fixed = {0, self.max_hops - 1} if config.fix_ends else set()
        self._free = [position for position in range(self.max_hops) if position not in fixed]
        """The positions that are searched."""
        self._scales = self._scale_range(space, unscalable)
        self._options = [self._layers_at(depth) for depth in self.depths]
        """For each position, the (model, layer) of each label of its choice after the first."""
        self.space = self._space()

    @property
    def reference(self) -> str:
        """The model whose architecture, vocabulary, embedding and head the path has."""
        return self.models[0]

    def recipe(self, params: Mapping[str, float]) -> PathRecipe:
        """Return the path at a point of the space.

        A layer is left out if the path has it `repeats` times already. A path without any layer is
        the first layer of the first model.
        """
        hops: list[Hop] = []
        layers = [self._layer_at(position, params) for position in range(self.max_hops)]
        free = set(self._free)
        used = Counter(layer for p, layer in enumerate(layers) if p not in free and layer)
        for position, layer in enumerate(layers):
            if layer is None:
                continue
            if position in free:
                if used[layer] >= self.config.repeats:
                    continue
                used[layer] += 1
            hops.append(Hop(*layer, params.get(self._name(position, "scale"), 1.0)))
        return PathRecipe(tuple(hops or [Hop(self.reference, 0)]), self.reference)

    def penalty(self, path: PathRecipe) -> float:
        """Return what is subtracted from the objective of a trial for the length of its path."""
        return self.config.hop_penalty * (len(path.hops) - self.num_layers)

    def label(self, name: str, value: float) -> str:
        """Return the text of a parameter's value."""
        parameter = self.space[name]
        return parameter.labels[int(value)] if isinstance(parameter, Choice) else f"{value:.2f}"

    def mean(self, points: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the most frequent choices of the points, and the mean scales.

        Of choices that are equally frequent, that of the earlier point counts. A scale is the mean
        over the points that agree with the choice of its position.
        """
        mean: dict[str, float] = {}
        agreeing: Sequence[Mapping[str, float]] = points
        for name, parameter in self.space.items():
            if isinstance(parameter, Choice):
                mean[name] = Counter(point[name] for point in points).most_common(1)[0][0]
                agreeing = [point for point in points if point[name] == mean[name]]
            else:
                mean[name] = sum(point[name] for point in agreeing) / len(agreeing)
        return mean

    def baselines(self) -> list[Baseline]:
        """Return each model as a baseline; there are no uniform merges."""
        return [
            Baseline(
                label, "parent", MergeRecipe.single(label, self.num_layers), self._whole(label)
            )
            for label in self.models
        ]

    def start_probabilities(self) -> dict[str, list[float]]:
        """Return the probability of each label of each choice in the first generation.

        The start has nine tenths of it. Half of the rest is for the layers of the position's own
        depth in other models, or, at a position that is empty at the start, in all models.
        """
        return {
            self._name(position, "layer"): self._start_probabilities(position)
            for position in self._free
        }

    def _start_probabilities(self, position: int) -> list[float]:
        start, depth = self._start_of(position), self.depths[position]
        layers = self._options[position]
        likely = [i for i, (_, d) in enumerate(layers, 1) if d == depth and i != start]
        shares = [_REST / 2 / len(likely) if i in likely else 0.0 for i in range(len(layers) + 1)]
        others = [i for i in range(len(layers) + 1) if i != start]
        spread = _REST / 2 if likely else _REST
        for i in others:
            shares[i] += spread / len(others)
        shares[start] = 1.0 - _REST
        return shares

    def _layer_at(self, position: int, params: Mapping[str, float]) -> tuple[str, int] | None:
        name = self._name(position, "layer")
        index = int(params[name]) if name in params else self._start_of(position)
        return None if index == 0 else self._options[position][index - 1]

    def _whole(self, model: str) -> dict[str, float]:
        """Return the point of the path through one model, except at fixed positions."""
        point: dict[str, float] = {}
        for position in self._free:
            point[self._name(position, "layer")] = float(self._index_of(model, position))
            if self._scales is not None:
                point[self._name(position, "scale")] = self._scales.clip(1.0)
        return point

    def _space(self) -> Space:
        space: dict[str, Range | Choice] = {}
        for position in self._free:
            labels = [f"{model} {layer}" for model, layer in self._options[position]]
            choice = Choice((NONE, *labels), self._start_of(position))
            space[self._name(position, "layer")] = choice
            if self._scales is not None:
                space[self._name(position, "scale")] = self._scales
        if not space:
            raise ConfigError(
                "genome.fix_ends: the models have no layers between the first and the last"
            )
        return space

    def _scale_range(self, space: SpaceConfig, unscalable: str | None) -> Range | None:
        configured = space.scale
        if not self.config.scale_layers:
            if configured is not None:
                raise ConfigError("space.scale: has no effect with genome.scale_layers: false")
            return None
        if configured is not None and configured.low < 0:
            raise ConfigError(f"space.scale: must be at least 0, not {configured.low:g}")
        if unscalable is not None:
            if configured is not None or "scale_layers" in self.config.model_fields_set:
                raise ConfigError(f"genome.scale_layers: layers cannot be scaled: {unscalable}")
            log.warning("the layers are not scaled: %s", unscalable)
            return None
        if configured is None or configured.start is not None:
            return configured or SCALES
        return configured.model_copy(update={"start": configured.clip(1.0)})

    def _max_hops(self) -> int:
        positions = self.config.positions(self.num_layers)
        if positions < self.num_layers:
            raise ConfigError(
                f"genome.max_hops: must be at least the {self.num_layers} layers of the models, "
                "because the search starts at the first model"
            )
        return positions

    def _layers_at(self, depth: int) -> list[tuple[str, int]]:
        """Return the layers that a position of this depth can have."""
        window = self.config.window
        first, last = max(0, depth - window), min(self.num_layers - 1, depth + window)
        return [(model, layer) for model in self.models for layer in range(first, last + 1)]

    def _start_of(self, position: int) -> int:
        """Return the index of the label at the start: the first model's layer, or none."""
        return self._index_of(self.reference, position)

    def _index_of(self, model: str, position: int) -> int:
        """Return the index of the label of a model's layer in the path through it alone, or of
        none."""
        if position not in self._homes:
            return 0
        return 1 + self._options[position].index((model, self.depths[position]))

    def _name(self, position: int, parameter: str) -> str:
        digits = len(str(self.max_hops - 1))
        return f"hop.{position:0{digits}}/{parameter}"


def _homes(positions: int, layers: int) -> list[int]:
    """Return the position of each layer at the start: evenly spaced, from the first to the last."""
    if layers == 1:
        return [0]
    return [round(layer * (positions - 1) / (layers - 1)) for layer in range(layers)]
