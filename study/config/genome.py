"""The sections `genome` and `space` of a study file."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from objectives.merge.catalogue import METHODS, Method
from objectives.merge.recipe import labels

from .method_rules import models_error, value_error
from .section import Bound, Integer, Plain, Section, Text, closest, one_of

MAX_MODELS = 100
"""The maximum number of models and of filters: each of them multiplies the parameters."""


class GenomeConfig(Section):
    """The models and the merge method, with the same keys as in mergekit-evolve."""

    models: tuple[Text, ...] = Field(max_length=MAX_MODELS)
    """Folders relative to the file, or hub ids; `id@revision` pins one."""
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

    @field_validator("models")
    @classmethod
    def _check_distinct(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := next((m for m in models if models.count(m) > 1), None):
            raise ValueError(f"{repeated} is listed twice")
        return models

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
    def _check_tokenizer_source(self) -> Self:
        source = self.tokenizer_source
        if source in (None, "base", "union", *self.models, self.base_model):
            return self
        allowed = dict.fromkeys(["base", "union", *self.models, *filter(None, [self.base_model])])
        if source is not None and source.startswith("model:"):
            raise ValueError(f"tokenizer_source: {source}: write the model without `model:`")
        raise ValueError(f"tokenizer_source: {source} is not valid; {one_of(allowed)}")

    @model_validator(mode="after")
    def _check_config_source(self) -> Self:
        source = self.config_source
        if source in (None, "base", *self.models, self.base_model):
            return self
        allowed = dict.fromkeys(["base", *self.models, *filter(None, [self.base_model])])
        raise ValueError(f"config_source: {source} is not valid; {one_of(allowed)}")


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


def references(config: GenomeConfig) -> dict[str, str]:
    """Return the folder or hub id of each model and of the base, by label."""
    names = list(dict.fromkeys([*config.models, *filter(None, [config.base_model])]))
    return dict(zip(labels(names), names, strict=True))
