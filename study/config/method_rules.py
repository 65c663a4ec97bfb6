"""What a merge method lets a config say: how many models, which parameters, with which values.

Each answer is the text of an error, or None where nothing is wrong.
"""

import math
from collections.abc import Sequence

from objectives.merge.catalogue import METHODS, Method, Parameter, Value

from .section import closest, one_of


def wrong_models(name: str, models: Sequence[str], base: str | None) -> str | None:
    """What is wrong with the number of models, or the want of a base."""
    method = METHODS[name]
    if method.needs_base and base is None:
        return f"base_model: {name} needs one"
    count = method.count(models, base)
    beside = "" if count == len(models) else " beside the base"
    if method.most is not None and not method.least <= count <= method.most:
        wanted = "1 model" if method.most == 1 else f"exactly {method.most} models"
        return f"models: {name} takes {wanted}{beside}, not {count}"
    if count < method.least:
        return f"models: at least {method.least} models are needed{beside}, not {count}"
    return None


def wrong_value(name: str, parameter: str, value: Value) -> str | None:
    """Why `genome.parameters` cannot set a parameter to this value."""
    if parameter == "normalize":
        return "stands in genome itself, as genome.normalize"
    if parameter == "int8_mask":
        return "is always true: it changes no weight"
    method = METHODS[name]
    if parameter == "t" and method.pairwise:
        return "is searched: each model's preference"
    if parameter == "rescale" and (method.drops or method.trims):
        return f"{name} {'always' if method.drops else 'never'} rescales"
    known = _settable(method)
    if parameter not in known:
        has = one_of(known) if known else f"{name} has none"
        return f"unknown parameter{closest(parameter, known) or '; ' + has}"
    return _unfit(known[parameter], value)


def wrong_range(name: str, parameter: str, ends: Sequence[float]) -> str | None:
    """Why `space` cannot give a parameter this range."""
    known = _settable(METHODS[name])
    if parameter not in known:
        return f"{name} has no {parameter}"
    if any(_unfit(known[parameter], end) for end in ends):
        return f"must stay {_limits_of(known[parameter])}"
    return None


def _settable(method: Method) -> dict[str, Parameter]:
    found = {parameter.name: parameter for parameter in method.parameters}
    return found | ({"lambda": Parameter("lambda", 1.0)} if method.has_lambda else {})


def _unfit(parameter: Parameter, value: Value) -> str | None:
    if isinstance(parameter.default, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool):
        return "must be a number, not a truth value"
    if not parameter.is_number and not float(value).is_integer():
        return "must be a whole number"
    low, high = parameter.limits
    if not low <= value <= high or not math.isfinite(value) or (parameter.open and value == low):
        return f"must be {_limits_of(parameter)}"
    return None


def _limits_of(parameter: Parameter) -> str:
    low, high = parameter.limits
    if math.isinf(low):
        return "a number"
    at_most = "" if math.isinf(high) else f" and at most {high:g}"
    return f"{'above' if parameter.open else 'at least'} {low:g}{at_most}"
