"""The catalogue of merge methods: which models each takes, its parameters and their ranges.

This is plain data, so that a config can be checked without importing mergekit.
tests/objectives/merge/test_catalogue.py compares the table with mergekit's registry.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Value = float | int | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, with mergekit's name."""

    name: str
    default: Value | None = None
    """mergekit's default; None if the parameter is required."""
    per_model: bool = True
    """Whether each model has its own value, or all models share one."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """The values that a config may have. If `open`, a range must stay above the lower limit."""
    open: bool = False
    least: float = 0.0
    """The least magnitude that a recipe holds of it."""
    no_derivative: str = ""
    """Why a search by gradient cannot improve it; empty if it has a useful derivative."""

    @property
    def is_number(self) -> bool:
        """Whether it is a real number; integers and booleans are never searched."""
        return self.default is None or type(self.default) is float


@dataclass(frozen=True)
class Method:
    """The properties of a merge method."""

    parameters: tuple[Parameter, ...] = ()
    base: Literal["needed", "optional", "unused"] = "needed"
    """Whether the method uses a base. An unused base only defines architecture and vocabulary."""
    least: int = 1
    """The minimum number of models. A base among them counts only in the task-arithmetic family."""
    most: int | None = None
    """The maximum number of models; None for no maximum."""
    normalize: bool | None = None
    """The meaning of `normalize: null`; None if the method has no such parameter."""
    has_lambda: bool = False
    native: bool = False
    """Whether this project computes it (methods.py), and not mergekit."""
    drops: bool = False
    """Whether a random fraction `density` of each delta is kept and its L1 norm restored (DARE)."""
    trims: bool = False
    """Whether the largest entries of each delta are kept, a fraction `density` of them (TIES)."""
    elects: bool = False
    """Whether only the deltas that agree with the sign of their sum are added (TIES)."""
    pairwise: bool = False
    """Whether each tensor is interpolated between two models, which the values of `t` select."""

    @property
    def needs_base(self) -> bool:
        return self.base == "needed"

    @property
    def has_kernel(self) -> bool:
        """Whether a GPU kernel computes it in one pass over the tensors (kernels.py)."""
        return self.native and not self.pairwise

    @property
    def copies_one_model(self) -> bool:
        """Whether it takes a single model and no base, so that by default it copies that model."""
        return self.base == "unused" and self.most == 1

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of this name; None if the method has none."""
        return next((p for p in self.parameters if p.name == name), None)

    def count(self, models: Sequence[str], base: str | None) -> int:
        """Return the number of models that `least` and `most` apply to."""
        counts_base = self.has_lambda or self.base == "unused"
        return len([model for model in models if counts_base or model != base])


_WEIGHT = Parameter("weight")
_DENSITY = Parameter("density", 1.0, limits=(0.0, 1.0), open=True)
_GAMMA = Parameter("gamma", 0.01, limits=(0.0, 1.0))
_EPSILON = Parameter("epsilon", 0.15, limits=(0.0, 0.5))
_RESCALE = Parameter("rescale", False, per_model=False)
_DROPPED = Parameter("epsilon", 1e-5, False, limits=(0.0, math.inf))


def _deltas(*parameters: Parameter, normalize: bool) -> Method:
    """Return a method of the task-arithmetic family."""
    return Method(parameters, least=2, normalize=normalize, has_lambda=True)


METHODS: Mapping[str, Method] = {
    "linear": Method((_WEIGHT,), "unused", least=2, normalize=True, native=True),
    "task_arithmetic": replace(_deltas(_WEIGHT, normalize=False), native=True),
    "ties": replace(
        _deltas(_WEIGHT, _DENSITY, normalize=True), native=True, trims=True, elects=True
    ),
    "dare_linear": replace(_deltas(_WEIGHT, _DENSITY, normalize=False), native=True, drops=True),
    "dare_ties": replace(
        _deltas(_WEIGHT, _DENSITY, normalize=True), native=True, drops=True, elects=True
    ),
    "slerp": Method(
        (Parameter("t"),),
        *("unused", 2),
        normalize=False,
        native=True,
        pairwise=True,
    ),
    "della": _deltas(
        *(_WEIGHT, _DENSITY, _EPSILON, Parameter("rescale", True, False)), normalize=True
    ),
    "della_linear": _deltas(
        *(_WEIGHT, _DENSITY, _EPSILON, Parameter("rescale", True, False)), normalize=False
    ),
    "breadcrumbs": _deltas(_WEIGHT, _DENSITY, _GAMMA, _RESCALE, normalize=False),
    "breadcrumbs_ties": _deltas(_WEIGHT, _DENSITY, _GAMMA, _RESCALE, normalize=False),
    "sce": Method((Parameter("select_topk", 1.0, False, limits=(0.0, 1.0), open=True),)),
    "model_stock": Method((Parameter("filter_wise", False, per_model=False),), least=2),
    "nuslerp": Method(
        (
            _WEIGHT,
            Parameter("nuslerp_row_wise", False, per_model=False),
            Parameter("nuslerp_flatten", True, per_model=False),
        ),
        *("optional", 2, 2),
    ),
    "multislerp": Method(
        (
            _WEIGHT,
            Parameter("normalize_weights", True, per_model=False),
            Parameter(
                "eps",
                1e-8,
                per_model=False,
                limits=(0.0, 1.0),
                open=True,
                no_derivative="it guards a division and moves no weight",
            ),
        ),
        *("optional", 2),
    ),
    "karcher": Method(
        (
            Parameter(
                "max_iter",
                10,
                per_model=False,
                limits=(1, math.inf),
                no_derivative="it counts iterations",
            ),
            Parameter(
                "tol",
                1e-5,
                per_model=False,
                limits=(0.0, 1.0),
                open=True,
                no_derivative="it decides when an iteration stops",
            ),
        ),
        *("unused", 2),
    ),
    "ram": Method((_DROPPED,)),
    "ramplus_tl": Method(
        (
            Parameter("r", 0.1, False, limits=(0.0, math.inf)),
            Parameter("alpha", 0.2, False, limits=(0.0, math.inf)),
            replace(_DROPPED, least=1e-12),  # at 0, equal tensors are merged into NaN
        )
    ),
    "nearswap": Method((Parameter("t", None, False, limits=(0.0, math.inf)),), most=1),
    "arcee_fusion": Method(most=1),
    "passthrough": Method((Parameter("scale", None),), "unused", least=1, most=1),
}
"""Fused methods come first. `normalize` has mergekit-evolve's default if it has the method."""
