"""What is merged, and where it is searched: the sections `genome` and `space` of a study file."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from objectives.merge.catalogue import METHODS, Method
from objectives.merge.recipe import labels

from .method_rules import wrong_models, wrong_value
from .section import Bound, Plain, Section, Text, Whole, closest, one_of

MOST_MODELS = 100
"""Of models, and of filters: each of them multiplies the parameters."""


class GenomeConfig(Section):
    """What is merged with what, exactly as in mergekit-evolve."""

    models: tuple[Text, ...] = Field(max_length=MOST_MODELS)
    """Folders relative to the file, or hub ids; `id@revision` pins one."""
    merge_method: str
    base_model: Text | None = None
    layer_granularity: Whole = Field(default=0, ge=0)
    """Layers per block; 0 makes all layers one block."""
    allow_negative_weights: bool = False
    normalize: bool | None = None
    """None takes the method's default: true for ties, dare_ties and linear."""
    filters: tuple[Text, ...] | None = Field(default=None, max_length=MOST_MODELS)
    """Texts in tensor names; each gets parameters of its own, the first match wins."""
    smooth: bool = False
    """Interpolate linearly between blocks."""
    tokenizer_source: Text | None = None
    """base, union, or one of the models: whose vocabulary the merge has. None is base."""
    config_source: Text | None = None
    """base, or one of the models: whose rope parameters and sliding window the merge has if the
    models differ in them. None refuses models that differ. Without a base, base is the first."""
    parameters: Mapping[Text, Plain] = {}
    """mergekit's parameters of the method that are set for the whole merge and not searched."""

    @field_validator("merge_method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"unknown method {name}{closest(name, METHODS)}; {one_of(METHODS)}")
        return name

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("a model stands there twice")
        return models

    @property
    def method(self) -> Method:
        return METHODS[self.merge_method]

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.method.pairwise and (self.smooth or self.filters):
            raise ValueError(f"merge_method: {self.merge_method} takes neither smooth nor filters")
        if self.normalize is not None and self.method.normalize is None:
            raise ValueError(f"normalize: {self.merge_method} does not normalize")
        if wrong := wrong_models(self.merge_method, self.models, self.base_model):
            raise ValueError(wrong)
        wrongs = [
            f"parameters.{name}: {reason}"
            for name, value in self.parameters.items()
            if (reason := wrong_value(self.merge_method, name, value))
        ]
        if wrongs:
            raise ValueError("\n".join(wrongs))
        return self

    @model_validator(mode="after")
    def _known_vocabulary(self) -> Self:
        source = self.tokenizer_source
        if source in (None, "base", "union", *self.models, self.base_model):
            return self
        known = dict.fromkeys(["base", "union", *self.models, *filter(None, [self.base_model])])
        if source is not None and source.startswith("model:"):
            raise ValueError(f"tokenizer_source: {source}: write the model without model:")
        raise ValueError(f"tokenizer_source: {source} is none of the models; {one_of(known)}")

    @model_validator(mode="after")
    def _known_config(self) -> Self:
        source = self.config_source
        if source in (None, "base", *self.models, self.base_model):
            return self
        known = dict.fromkeys(["base", *self.models, *filter(None, [self.base_model])])
        raise ValueError(f"config_source: {source} is none of the models; {one_of(known)}")


class Range(Section):
    """Where a parameter is searched; in the file `[low, high]` or a mapping."""

    low: Bound
    high: Bound
    start: Bound | None = None
    """Where the search begins; None is the middle."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if len(data) != 2:
                raise ValueError("must be [low, high]")
            return {"low": data[0], "high": data[1]}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is outside {self.low:g} to {self.high:g}")
        return self


class SpaceConfig(Section):
    """The bounds of the search. docs/search.md says how the defaults were chosen."""

    weight: Range | None = None
    """None is 0 to 1.4, or -0.4 to 1.4 where negative weights are allowed."""
    density: Range | None = None
    t: Range | None = None
    """slerp's preference for each model: a softmax over the top two; nearswap's distance."""
    lambda_: Range | None = Field(default=None, alias="lambda")
    """Search `lambda` too, one number for the whole merge; None keeps it 1."""
    epsilon: Range | None = None
    gamma: Range | None = None
    select_topk: Range | None = None
    r: Range | None = None
    alpha: Range | None = None
    scale: Range | None = None
    eps: Range | None = None
    tol: Range | None = None

    def given(self, parameter: str) -> Range | None:
        """The range that the file gives a parameter, by mergekit's name."""
        found: Range | None = getattr(self, "lambda_" if parameter == "lambda" else parameter, None)
        return found


def references(config: GenomeConfig) -> dict[str, str]:
    """Label to folder or hub id, of every model and the base."""
    names = list(dict.fromkeys([*config.models, *filter(None, [config.base_model])]))
    return dict(zip(labels(names), names, strict=True))
