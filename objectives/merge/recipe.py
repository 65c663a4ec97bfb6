"""A merge as plain data: it crosses processes, stands in files, and never holds a tensor.

K: knots (blocks of layers, or the points `smooth` interpolates between), M: models,
F: filters, and the rest that no filter matches.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ValuesKMF = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Method:
    """What a merge method takes: its parameters per model, a base or none, its defaults."""

    parameters: tuple[str, ...]
    needs_base: bool
    normalize: bool
    """What `normalize: null` means (mergekit-evolve's defaults)."""


METHODS: Mapping[str, Method] = {
    "linear": Method(("weight",), needs_base=False, normalize=True),
    "task_arithmetic": Method(("weight",), needs_base=True, normalize=False),
    "ties": Method(("weight", "density"), needs_base=True, normalize=True),
    "dare_linear": Method(("weight", "density"), needs_base=True, normalize=False),
    "dare_ties": Method(("weight", "density"), needs_base=True, normalize=True),
    "slerp": Method(("t",), needs_base=False, normalize=False),
}


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

    @classmethod
    def single(cls, model: str, num_layers: int, dtype: str = "bfloat16") -> "MergeRecipe":
        """The recipe that gives one model back, unchanged."""
        one = {"weight": (((1.0,),),)}
        return cls("linear", (model,), None, num_layers, one, normalize=True, dtype=dtype)

    def at(self, tensor: str, layer: int) -> Setting:
        """The setting of one tensor; `layer` is -1 before the first layer, num_layers after."""
        picked = {name: self._row(values, tensor, layer) for name, values in self.values.items()}
        if self.method == "slerp":
            first, second, t = slerp_pair(picked["t"])
            return Setting((self.models[first], self.models[second]), t=t)
        weights = picked["weight"]
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

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MergeRecipe":
        """The inverse of `to_dict`, also after a trip through JSON (lists for tuples)."""
        fields = dict(data)
        fields["values"] = {name: _tuples(values) for name, values in fields["values"].items()}
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

    >>> labels(["org/Mistral-7B", "models/base/", "other/base"])
    ('Mistral-7B', 'models--base', 'other--base')
    """
    parts = [reference.rstrip("/").split("@")[0].split("/") for reference in references]
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
