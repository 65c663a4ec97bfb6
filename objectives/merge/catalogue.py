"""The merge methods there are: the models each takes, its parameters, and where they are searched.

Plain data, so that a config is checked without mergekit. tests/test_catalogue.py holds the table
against mergekit's own registry.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Value = float | int | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, by mergekit's name."""

    name: str
    default: Value | None = None
    """mergekit's; None where it must be given."""
    per_model: bool = True
    """One number for each model, or one for all of them."""
    low: float = math.nan
    high: float = math.nan
    start: float | None = None
    """The range in which it is searched, and where that begins: None is the middle. Without a range
    it is searched only if the config gives one."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """What a config may give; a range stays above the first if that is `open`."""
    open: bool = False
    no_derivative: str = ""
    """Why a search by gradient cannot improve it; empty if it has a useful derivative."""

    @property
    def is_number(self) -> bool:
        """Whole numbers and truth values are never searched."""
        return self.default is None or type(self.default) is float

    @property
    def is_searched(self) -> bool:
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Method:
    """What a merge method takes."""

    parameters: tuple[Parameter, ...] = ()
    base: Literal["needed", "optional", "unused"] = "needed"
    """Whether deltas are taken from a base; an unused one gives architecture and vocabulary."""
    least: int = 1
    """Models; a base among them counts in the task-arithmetic family alone."""
    most: int | None = None
    normalize: bool | None = None
    """What `normalize: null` means; None where there is no such parameter."""
    has_lambda: bool = False
    fused: bool = False
    """Whether the arithmetic is ours (methods.py); else it is mergekit's."""
    drops: bool = False
    """Keeps a random share `density` of each delta and restores its L1 norm (DARE)."""
    trims: bool = False
    """Keeps the largest entries of each delta, a share `density` of them (TIES)."""
    elects: bool = False
    """Adds only the deltas that agree with the sign of their sum (TIES)."""
    pairwise: bool = False
    """Interpolates between two of the models, which the values of `t` choose for each tensor."""

    @property
    def needs_base(self) -> bool:
        return self.base == "needed"

    @property
    def has_kernel(self) -> bool:
        """Whether a GPU kernel computes it in one pass over the tensors (kernels.py)."""
        return self.fused and not self.pairwise

    @property
    def copies_one_model(self) -> bool:
        """Whether it takes a single model and no base, so that its default is that model."""
        return self.base == "unused" and self.most == 1

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)

    def count(self, models: Sequence[str], base: str | None) -> int:
        """How many of the models count against `least` and `most`."""
        listed = self.has_lambda or self.base == "unused"
        return len([model for model in models if listed or model != base])


_WEIGHT = Parameter("weight", low=0.0, high=1.4)
_RELATIVE = Parameter("weight", low=0.05, high=1.0)
"""Where only the ratio of the weights counts, and their sum must not be zero."""
_DENSITY = Parameter("density", 1.0, low=0.4, high=1.0, limits=(0.0, 1.0), open=True)
_GAMMA = Parameter("gamma", 0.01, low=0.0, high=0.1, start=0.01, limits=(0.0, 1.0))
_EPSILON = Parameter("epsilon", 0.15, low=0.0, high=0.3, limits=(0.0, 0.5))
_RESCALE = Parameter("rescale", False, per_model=False)
_DROPPED = Parameter("epsilon", 1e-5, False, 0.0, 1e-3, 1e-5, limits=(0.0, math.inf))


def _deltas(*parameters: Parameter, normalize: bool) -> Method:
    """Return a method of the task-arithmetic family."""
    return Method(parameters, least=2, normalize=normalize, has_lambda=True)


METHODS: Mapping[str, Method] = {
    "linear": Method((_WEIGHT,), "unused", least=2, normalize=True, fused=True),
    "task_arithmetic": replace(_deltas(_WEIGHT, normalize=False), fused=True),
    "ties": replace(
        _deltas(_WEIGHT, _DENSITY, normalize=True), fused=True, trims=True, elects=True
    ),
    "dare_linear": replace(_deltas(_WEIGHT, _DENSITY, normalize=False), fused=True, drops=True),
    "dare_ties": replace(
        _deltas(_WEIGHT, _DENSITY, normalize=True), fused=True, drops=True, elects=True
    ),
    "slerp": Method(
        (Parameter("t", low=0.0, high=1.0),),
        *("unused", 2),
        normalize=False,
        fused=True,
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
    "sce": Method((Parameter("select_topk", 1.0, False, 0.1, 1.0, limits=(0.0, 1.0), open=True),)),
    "model_stock": Method((Parameter("filter_wise", False, per_model=False),), least=2),
    "nuslerp": Method(
        (
            _RELATIVE,
            Parameter("nuslerp_row_wise", False, per_model=False),
            Parameter("nuslerp_flatten", True, per_model=False),
        ),
        *("optional", 2, 2),
    ),
    "multislerp": Method(
        (
            _RELATIVE,
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
            Parameter("r", 0.1, False, 0.0, 1.0, 0.1, limits=(0.0, math.inf)),
            Parameter("alpha", 0.2, False, 0.0, 1.0, 0.2, limits=(0.0, math.inf)),
            _DROPPED,
        )
    ),
    "nearswap": Method((Parameter("t", None, False, 0.0, 1e-3, limits=(0.0, math.inf)),), most=1),
    "arcee_fusion": Method(most=1),
    "passthrough": Method(
        (Parameter("scale", None, low=0.5, high=1.5),), "unused", least=1, most=1
    ),
}
"""Those that are fused first. `normalize` where mergekit-evolve has the method: its default."""
