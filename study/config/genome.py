"""The sections `genome` and `space` of a study file."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from objectives.merge.catalogue import METHODS, Method
from objectives.merge.recipe import labels

from .method_rules import models_error, value_error
from .section import Bound, Integer, Number, Plain, Section, Text, closest, one_of

MAX_MODELS = 100
"""The maximum number of models and of filters: each of them multiplies the parameters."""
_MAX_HOPS = 10_000
_LAYERS_PER_EMPTY = 4
"""Without `max_hops`, a path has an empty position for each four layers."""


WEIGHTS: Literal["weights"] = "weights"
LAYERS: Literal["layers"] = "layers"
"""The kinds of genomes."""


def _check_distinct(models: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := next((m for m in models if models.count(m) > 1), None):
        raise ValueError(f"{repeated} is listed twice")
    return models


def _check_source(key: str, source: str | None, names: Iterable[str]) -> None:
    """Raise ValueError if the source of a vocabulary or of settings is none of these names."""
    allowed = dict.fromkeys(names)
    if source is None or source in allowed:
        return
    if source.startswith("model:"):
        raise ValueError(f"{key}: {source}: write the model without `model:`")
    raise ValueError(f"{key}: {source} is not valid; {one_of(allowed)}")


Models = Annotated[tuple[Text, ...], Field(max_length=MAX_MODELS), AfterValidator(_check_distinct)]
"""Folders relative to the file, or hub ids; `id@revision` pins one."""


class GenomeConfig(Section):
    """The models and the merge method, with the same keys as in mergekit-evolve."""

    kind: Literal["weights"] = WEIGHTS
    models: Models
    merge_method: str
    base_model: Text | None = None
    layer_granularity: Integer = Field(default=0, ge=0)
    """Layers per block; 0 makes all layers one block."""
    allow_negative_weights: bool = False
    normalize: bool | None = None
    """None takes the method's default: true for ties, dare_ties and linear."""
    filters: tuple[Text, ...] | None = Field(default=None, max_length=MAX_MODELS)
    """Parts of tensor names. Each filter has its own parameters; the first match wins."""
    smooth: bool = False
    """Interpolate linearly between blocks."""
    tokenizer_source: Text | None = None
    """The source of the merge's vocabulary: base, union, or one of the models. None is base."""
    config_source: Text | None = None
    """The source of the merge's rope parameters and sliding window if the models differ in them:
    base or one of the models. None refuses such models. Without a base, base is the first one."""
    parameters: Mapping[Text, Plain] = {}
    """Parameters of the merge method that are fixed for the whole merge instead of searched."""

    @field_validator("merge_method")
    @classmethod
    def _check_method(cls, name: str) -> str:
        if name not in METHODS:
            hint = closest(name, METHODS)
            link = f"{hint} It" if hint else ";"
            raise ValueError(f"unknown method {name}{link} {one_of(METHODS)}")
        return name

    @property
    def method(self) -> Method:
        return METHODS[self.merge_method]

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if self.method.pairwise and (self.smooth or self.filters):
            raise ValueError(
                f"merge_method: {self.merge_method} supports neither smooth nor filters"
            )
        if self.normalize is not None and self.method.normalize is None:
            raise ValueError(f"normalize: {self.merge_method} does not normalize")
        if error := models_error(self.merge_method, self.models, self.base_model):
            raise ValueError(error)
        errors = [
            f"parameters.{name}: {reason}"
            for name, value in self.parameters.items()
            if (reason := value_error(self.merge_method, name, value))
        ]
        if errors:
            raise ValueError("\n".join(errors))
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        models = [*self.models, *filter(None, [self.base_model])]
        _check_source("tokenizer_source", self.tokenizer_source, ["base", "union", *models])
        _check_source("config_source", self.config_source, ["base", *models])
        return self


class Range(Section):
    """The range of a parameter; in the file `[low, high]` or a mapping."""

    low: Bound
    high: Bound
    start: Bound | None = None
    """The start of the search; None is the middle."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if len(data) != 2:
                raise ValueError("must be [low, high]")
            return {"low": data[0], "high": data[1]}
        return data

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is outside {self.low:g} to {self.high:g}")
        return self

    def clip(self, value: float) -> float:
        """Return the value of the range that is closest to `value`."""
        return min(max(value, self.low), self.high)

    def share(self, value: float) -> float:
        """Return the position of a value as a share of the range, which is 0 at its low end."""
        return (value - self.low) / (self.high - self.low)

    def at(self, share: float) -> float:
        """Return the value at a share of the range, within the bounds."""
        return self.clip(self.low + share * (self.high - self.low))


class SpaceConfig(Section):
    """The ranges of the parameters. study/config/ranges.py has the defaults."""

    weight: Range | None = None
    density: Range | None = None
    t: Range | None = None
    """slerp's preference for each model: a softmax over the top two; nearswap's distance."""
    lambda_: Range | None = Field(default=None, alias="lambda")
    """The range of `lambda`, one number for the whole merge; None keeps it at 1."""
    epsilon: Range | None = None
    gamma: Range | None = None
    select_topk: Range | None = None
    r: Range | None = None
    alpha: Range | None = None
    scale: Range | None = None
    eps: Range | None = None
    tol: Range | None = None

    def range_of(self, parameter: str) -> Range | None:
        """Return the configured range of a parameter, by mergekit's name."""
        name = "lambda_" if parameter == "lambda" else parameter
        configured: Range | None = getattr(self, name, None)
        return configured


class PathConfig(Section):
    """The models and the limits of a path through their layers. See docs/layers.md."""

    kind: Literal["layers"]
    models: Models
    """The first one is the start of the search, and its embedding and head are used."""
    max_hops: Integer | None = Field(default=None, ge=1, le=_MAX_HOPS)
    """The maximum number of layers of a path; None is a quarter more than a model has."""
    repeats: Integer = Field(default=2, ge=1, le=_MAX_HOPS)
    """How many times a path may use the same layer of a model."""
    window: Integer = Field(default=1, ge=0, le=_MAX_HOPS)
    """How far the number of a layer may differ from the depth of its position."""
    scale_layers: bool = True
    """Search a scale for each position, too."""
    fix_ends: bool = True
    """Keep the first and the last layer of the first model at the ends of the path."""
    hop_penalty: Number = Field(default=0.0, ge=0, le=1)
    """What the search subtracts from a trial's score for each layer beyond those of a model, and
    adds for each layer less."""
    tokenizer_source: Text | None = None
    """The source of the vocabulary: base (the first model), union, or one of the models. None is
    base."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if not self.models:
            raise ValueError("models: at least one model is needed")
        _check_source("tokenizer_source", self.tokenizer_source, ["base", "union", *self.models])
        return self

    def positions(self, num_layers: int) -> int:
        """Return the maximum number of layers of a path through models of `num_layers` layers."""
        if self.max_hops is not None:
            return self.max_hops
        return num_layers + num_layers // _LAYERS_PER_EMPTY

    @property
    def base_model(self) -> None:
        return None

    @property
    def config_source(self) -> None:
        """Models whose position settings differ are refused."""
        return None

    @property
    def merge_method(self) -> str:
        """mergekit's name for models that are put together from layers."""
        return "passthrough"

    @property
    def method(self) -> Method:
        return METHODS[self.merge_method]


def _kind(data: Any) -> str:
    """Return the kind of a genome section, which may be invalid."""
    fields = data if isinstance(data, Mapping) else vars(data) if hasattr(data, "kind") else {}
    kind = fields.get("kind", WEIGHTS)
    return kind if isinstance(kind, str) else json.dumps(kind, default=str)


AnyGenomeConfig: TypeAlias = Annotated[
    Annotated[GenomeConfig, Tag(WEIGHTS)] | Annotated[PathConfig, Tag(LAYERS)],
    Discriminator(_kind),
]
"""The section `genome`, by its key `kind`."""


def references(config: GenomeConfig | PathConfig) -> dict[str, str]:
    """Return the folder or hub id of each model and of the base, by label."""
    names = list(dict.fromkeys([*config.models, *filter(None, [config.base_model])]))
    return dict(zip(labels(names), names, strict=True))
