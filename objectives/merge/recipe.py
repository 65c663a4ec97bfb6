"""A merge as plain data: it crosses processes, stands in files, and never holds a tensor.

K: knots (blocks of layers, or the points `smooth` interpolates between), M: models,
F: filters, and the rest that no filter matches.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .catalogue import METHODS, Value

ValuesKMF = tuple[tuple[tuple[float, ...], ...], ...]
ValuesKF = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Setting:
    """How one tensor is merged."""

    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    densities: tuple[float, ...] = ()
    t: float = 0.0


@dataclass(frozen=True)
class MergeRecipe:
    """Every number of one merge. Models are labels; `Sources` knows their folders.

    The same recipe over the same sources gives the same weights, wherever and whenever it runs.
    """

    method: str
    models: tuple[str, ...]
    base: str | None
    num_layers: int
    values: Mapping[str, ValuesKMF]
    filters: tuple[str, ...] = ()
    smooth: bool = False
    normalize: bool = False
    scale: float = 1.0
    """mergekit's `lambda`: multiplies the mixed delta."""
    mask_seed: int = 0
    dtype: str = "bfloat16"
    """What merged tensors are rounded to; the arithmetic before is float32."""
    shared: Mapping[str, ValuesKF] = field(default_factory=dict)
    """Parameters that all models have in common, as mergekit names them."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """Parameters of the whole merge that are not mergekit's defaults."""

    @classmethod
    def single(cls, model: str, num_layers: int, dtype: str = "bfloat16") -> "MergeRecipe":
        """The recipe that gives one model back, unchanged."""
        one = {"weight": (((1.0,),),)}
        return cls("linear", (model,), None, num_layers, one, normalize=True, dtype=dtype)

    @property
    def alone(self) -> str | None:
        """The model that the merge gives back, if that is what it does by its form."""
        single = self.method == "linear" and self.base is None and len(self.models) == 1
        return self.models[0] if single else None

    @property
    def knots(self) -> int:
        return len(next(iter([*self.values.values(), *self.shared.values()]), ((),)))

    def at(self, tensor: str, layer: int) -> Setting:
        """The setting of one tensor; `layer` is -1 before the first layer, num_layers after."""
        picked = self.numbers_at(tensor, layer)
        if METHODS[self.method].pairwise:
            first, second, t = slerp_pair(picked["t"])
            return Setting((self.models[first], self.models[second]), t=t)
        weights = picked.get("weight", ())
        return Setting(self.models, weights, picked.get("density", (1.0,) * len(weights)))

    def _row(self, values_KMF: ValuesKMF, tensor: str, layer: int) -> tuple[float, ...]:
        """One value a model, for this tensor."""
        f = next((i for i, text in enumerate(self.filters) if text in tensor), len(self.filters))
        knots = len(values_KMF)
        if not self.smooth:
            inside = min(max(layer, 0), self.num_layers - 1)
            return tuple(model[f] for model in values_KMF[inside * knots // self.num_layers])
        place = self._depth(layer) * (knots - 1)
        left = int(place)
        right, share = min(left + 1, knots - 1), place - left
        ends = zip(values_KMF[left], values_KMF[right], strict=True)
        return tuple((1 - share) * a[f] + share * b[f] for a, b in ends)

    def _depth(self, layer: int) -> float:
        """Where `smooth` reads its line: 0 outside the layers, 0 to 1 across them."""
        if not 0 <= layer < self.num_layers:
            return 0.0
        return layer / (self.num_layers - 1) if self.num_layers > 1 else 1.0

    def numbers_at(self, tensor: str, layer: int) -> dict[str, tuple[float, ...]]:
        """Each parameter's value for every model at one tensor."""
        return {name: self._row(values, tensor, layer) for name, values in self.values.items()}

    def shared_at(self, tensor: str, layer: int) -> dict[str, float]:
        """Each shared parameter's value at one tensor."""
        found = {}
        for name, values_KF in self.shared.items():
            [found[name]] = self._row(tuple((knot,) for knot in values_KF), tensor, layer)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what a method does not have is left out."""
        data = dataclasses.asdict(self)
        return {k: v for k, v in data.items() if v or k not in ("shared", "options")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MergeRecipe":
        """The inverse of `to_dict`, also after a trip through JSON (lists for tuples)."""
        fields = dict(data)
        for key in ("values", "shared"):
            fields[key] = {name: _tuples(values) for name, values in fields.get(key, {}).items()}
        fields["models"], fields["filters"] = tuple(fields["models"]), tuple(fields["filters"])
        return cls(**fields)


def slerp_pair(values: tuple[float, ...]) -> tuple[int, int, float]:
    """The two models with the highest values, and how far to go from the first to the second.

    mergekit-evolve's rule: t is the softmax share of the second, so it is at most a half.
    """
    first, second = sorted(range(len(values)), key=lambda i: (-values[i], i))[:2]
    return first, second, 1 / (1 + math.exp(min(values[first] - values[second], 700.0)))


def labels(references: Sequence[str]) -> tuple[str, ...]:
    """A short name for each model: the last part of its folder or hub id, or more where needed.

    A model with an adapter is called by the adapter.

    >>> labels(["org/Mistral-7B", "models/base/", "other/base"])
    ('Mistral-7B', 'models--base', 'other--base')
    """
    named = [reference.rpartition("+")[2] or reference for reference in references]
    parts = [name.rstrip("/").split("@")[0].split("/") for name in named]
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
