"""A merge, or a path through layers, as plain data that can be sent to other processes and stored.

K: knots, which are blocks of layers or, with `smooth`, the points between which values are
interpolated. M: models. F: the filters, and one more entry for tensors that no filter matches.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from .catalogue import METHODS, Value

ValuesKMF = tuple[tuple[tuple[float, ...], ...], ...]
ValuesKF = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Setting:
    """The models and the parameters with which one tensor is merged by methods.py."""

    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    densities: tuple[float, ...] = ()
    t: float = 0.0
    """The position between the two models of slerp: 0 is the first, 1 the second."""


@dataclass(frozen=True)
class MergeRecipe:
    """All parameters of one merge. Models are labels, which `Sources` maps to folders.

    The same recipe and sources yield bit-identical weights on every machine, except that slerp and
    the methods that mergekit computes round differently on different hardware.
    """

    method: str
    models: tuple[str, ...]
    base: str | None
    num_layers: int
    values: Mapping[str, ValuesKMF]
    """Parameters with a value for each model, by mergekit's name."""
    filters: tuple[str, ...] = ()
    """Parts of tensor names. A tensor has the values of the first filter that its name contains."""
    smooth: bool = False
    """Whether values are interpolated linearly between knots, instead of constant in a block."""
    normalize: bool = False
    scale: float = 1.0
    """mergekit's `lambda`, the factor of the sum of the deltas."""
    mask_seed: int = 0
    dtype: str = "bfloat16"
    """The dtype of the merged tensors. They are computed in float32 and then rounded."""
    shared: Mapping[str, ValuesKF] = field(default_factory=dict)
    """Parameters with one value for all models, by mergekit's name."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """Parameters with one value for the whole merge, by mergekit's name. mergekit's default applies
    to any other parameter."""

    @classmethod
    def single(cls, model: str, num_layers: int, dtype: str = "bfloat16") -> "MergeRecipe":
        """Return the recipe that copies one model."""
        one = {"weight": (((1.0,),),)}
        return cls("linear", (model,), None, num_layers, one, normalize=True, dtype=dtype)

    @property
    def copied_model(self) -> str | None:
        """The label of the model that the recipe copies; None for any other recipe."""
        single = self.method == "linear" and self.base is None and len(self.models) == 1
        return self.models[0] if single else None

    @property
    def knots(self) -> int:
        """The number of knots, K."""
        return len(next(iter([*self.values.values(), *self.shared.values()]), ((),)))

    def at(self, tensor: str, layer: int) -> Setting:
        """Return the setting of one tensor.

        `layer` is -1 before the first layer and num_layers after the last one.
        """
        values = self.values_at(tensor, layer)
        if METHODS[self.method].pairwise:
            first, second, t = slerp_pair(values["t"])
            return Setting((self.models[first], self.models[second]), t=t)
        weights = values.get("weight", ())
        return Setting(self.models, weights, values.get("density", (1.0,) * len(weights)))

    def _row(self, values_KMF: ValuesKMF, tensor: str, layer: int) -> tuple[float, ...]:
        """Return the value of each model for one tensor."""
        f = next((i for i, text in enumerate(self.filters) if text in tensor), len(self.filters))
        knots = len(values_KMF)
        if not self.smooth:
            inside = min(max(layer, 0), self.num_layers - 1)
            return tuple(model[f] for model in values_KMF[inside * knots // self.num_layers])
        position = self._depth(layer) * (knots - 1)
        left = int(position)
        right, share = min(left + 1, knots - 1), position - left
        ends = zip(values_KMF[left], values_KMF[right], strict=True)
        return tuple((1 - share) * a[f] + share * b[f] for a, b in ends)

    def _depth(self, layer: int) -> float:
        """Return the relative depth of a layer, 0 to 1, at which `smooth` interpolates.

        It is 0 for tensors outside the layers, and 1 for the only layer of a model.
        """
        if not 0 <= layer < self.num_layers:
            return 0.0
        return layer / (self.num_layers - 1) if self.num_layers > 1 else 1.0

    def values_at(self, tensor: str, layer: int) -> dict[str, tuple[float, ...]]:
        """Return the values of each per-model parameter for one tensor, one for each model."""
        return {name: self._row(values, tensor, layer) for name, values in self.values.items()}

    def shared_at(self, tensor: str, layer: int) -> dict[str, float]:
        """Return the value of each shared parameter for one tensor."""
        shared = {}
        for name, values_KF in self.shared.items():
            [shared[name]] = self._row(tuple((knot,) for knot in values_KF), tensor, layer)
        return shared

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data, without `shared` and `options` if they are empty."""
        data = dataclasses.asdict(self)
        return {k: v for k, v in data.items() if v or k not in ("shared", "options")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MergeRecipe":
        """Return the recipe. `data` is the result of `to_dict`, possibly read from JSON."""
        fields = dict(data)
        for key in ("values", "shared"):
            fields[key] = {name: _tuples(values) for name, values in fields.get(key, {}).items()}
        fields["models"], fields["filters"] = tuple(fields["models"]), tuple(fields["filters"])
        return cls(**fields)


@dataclass(frozen=True)
class Hop:
    """One layer of a path."""

    model: str
    layer: int
    scale: float = 1.0
    """The factor of the outputs of the layer's two parts, its attention and its MLP."""


@dataclass(frozen=True)
class PathRecipe:
    """A path through layers of models. Models are labels, which `Sources` maps to folders."""

    hops: tuple[Hop, ...]
    ends: str
    """The label of the model whose embedding, final normalization and head are used."""
    dtype: str = "bfloat16"
    """The dtype of the tensors. They are scaled in float32 and then rounded."""

    @classmethod
    def whole(cls, model: str, num_layers: int, dtype: str = "bfloat16") -> "PathRecipe":
        """Return the path through all layers of one model."""
        return cls(tuple(Hop(model, layer) for layer in range(num_layers)), model, dtype)

    def padded(self, length: int) -> "PathRecipe":
        """Return a path of `length` layers with the same output: the added layers have scale 0."""
        idle = Hop(self.ends, 0, 0.0)
        return replace(self, hops=self.hops + (idle,) * (length - len(self.hops)))

    @property
    def models(self) -> tuple[str, ...]:
        """The labels of the models in the path, without repetition."""
        return tuple(dict.fromkeys([self.ends, *(hop.model for hop in self.hops)]))

    @property
    def copied_model(self) -> str | None:
        """The label of the path's only model; None if there are several."""
        return self.ends if self.models == (self.ends,) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PathRecipe":
        """Return the recipe. `data` is the result of `to_dict`, possibly read from JSON."""
        return cls(tuple(Hop(**hop) for hop in data["hops"]), data["ends"], data["dtype"])


Recipe: TypeAlias = MergeRecipe | PathRecipe
"""What an engine loads and an export writes."""


def as_path(recipe: Recipe) -> PathRecipe | None:
    """Return the path of a recipe: that through all layers of a copied model, or None if the recipe
    merges several models."""
    if isinstance(recipe, PathRecipe):
        return recipe
    copied = recipe.copied_model
    return None if copied is None else PathRecipe.whole(copied, recipe.num_layers, recipe.dtype)


def recipe_of_dict(data: Mapping[str, Any]) -> Recipe:
    """Return the merge or the path. `data` is the result of `to_dict`, possibly read from JSON."""
    return PathRecipe.from_dict(data) if "hops" in data else MergeRecipe.from_dict(data)


def slerp_pair(values: tuple[float, ...]) -> tuple[int, int, float]:
    """Return the indices of the two models with the highest values, and slerp's t between them.

    As in mergekit-evolve, t is the softmax weight of the second model. It is at most 0.5.
    """
    first, second = sorted(range(len(values)), key=lambda i: (-values[i], i))[:2]
    return first, second, 1 / (1 + math.exp(min(values[first] - values[second], 700.0)))


def labels(references: Sequence[str]) -> tuple[str, ...]:
    """Return a label for each model: the last part of its folder or hub id.

    If several models have the same last part, their labels are the last two parts, or else all of
    the reference. The label of a model with an adapter is the adapter's.

    >>> labels(["org/Mistral-7B", "models/base/", "other/base"])
    ('Mistral-7B', 'models--base', 'other--base')
    """
    paths = [reference.rpartition("+")[2] or reference for reference in references]
    parts = [path.rstrip("/").split("@")[0].split("/") for path in paths]
    short = [part[-1] for part in parts]
    longer = ["--".join(part[-2:]) for part in parts]
    return tuple(
        next(
            (name for name, among in ((a, short), (b, longer)) if among.count(name) == 1),
            reference.replace("/", "--"),
        )
        for a, b, reference in zip(short, longer, references, strict=True)
    )


def _tuples(nested: Any) -> Any:
    return tuple(map(_tuples, nested)) if isinstance(nested, list | tuple) else nested
