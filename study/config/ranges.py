"""The default search range of each parameter of the merge methods.

docs/search.md explains the defaults of `weight` and `density`. A range in the study file's `space`
replaces the default. A parameter without a range in `space` and without a default is not searched.
The values that a method accepts are in objectives/merge/catalogue.py.
"""

from .genome import Range

NEGATIVE_WEIGHT = -0.4
"""The default lower bound of weights if negative weights are allowed."""
_RANGES = {
    "weight": Range(low=0.0, high=1.4),
    "density": Range(low=0.4, high=1.0),
    "epsilon": Range(low=0.0, high=0.3),
    "gamma": Range(low=0.0, high=0.1, start=0.01),
    "t": Range(low=0.0, high=1.0),
    "select_topk": Range(low=0.1, high=1.0),
    "r": Range(low=0.0, high=1.0, start=0.1),
    "alpha": Range(low=0.0, high=1.0, start=0.2),
    "scale": Range(low=0.5, high=1.5),
}
_RATIO = Range(low=0.05, high=1.0)
"""For weights of methods in which only the ratio of the weights matters, and whose sum of weights
must not be 0."""
_THRESHOLD = Range(low=0.0, high=1e-3, start=1e-5)
"""For epsilon of methods that ignore differences below epsilon."""
_RANGES_OF_METHODS = {
    ("nuslerp", "weight"): _RATIO,
    ("multislerp", "weight"): _RATIO,
    ("ram", "epsilon"): _THRESHOLD,
    ("ramplus_tl", "epsilon"): _THRESHOLD,
    ("nearswap", "t"): Range(low=0.0, high=1e-3),
}


def default_range(method: str, parameter: str, negative_weights: bool = False) -> Range | None:
    """Return the default search range of a method's parameter; None if it has none."""
    range_ = _RANGES_OF_METHODS.get((method, parameter), _RANGES.get(parameter))
    if range_ is not None and parameter == "weight" and negative_weights:
        return Range(low=NEGATIVE_WEIGHT, high=range_.high)
    return range_
