"""Check a config against its merge method: the number of models, the parameters, their values.

Each function returns the text of an error, or None.
"""

import math
from collections.abc import Sequence

from objectives.merge.catalogue import METHODS, Method, Parameter, Value

from .section import closest, one_of


def models_error(name: str, models: Sequence[str], base: str | None) -> str | None:
    """Return what is wrong with the number of models, or that the base is missing."""
    method = METHODS[name]
    if method.needs_base and base is None:
        return f"base_model: is required by {name}"
    count = method.count(models, base)
    besides = "" if count == len(models) else " besides the base"
    if method.most is not None and not method.least <= count <= method.most:
        required = "1 model" if method.most == 1 else f"exactly {method.most} models"
        return f"models: {name} needs {required}{besides}, not {count}"
    if count < method.least:
        return f"models: at least {method.least} models are needed{besides}, not {count}"
    return None


def value_error(name: str, parameter: str, value: Value) -> str | None:
    """Return why `genome.parameters` cannot set a parameter to this value."""
    if parameter == "normalize":
        return "is set by genome.normalize"
    if parameter == "int8_mask":
        return "is always true, because it does not change the merge"
    method = METHODS[name]
    if parameter == "t" and method.pairwise:
        return "is always searched: it is the preference for each model"
    if parameter == "rescale" and (method.drops or method.trims):
        return f"{name} {'always' if method.drops else 'never'} rescales"
    settable = _settable(method)
    if parameter not in settable:
        allowed = one_of(settable) if settable else f"{name} has no parameters"
        return f"unknown parameter{closest(parameter, settable) or '; ' + allowed}"
    return _out_of_limits(settable[parameter], value)


def range_error(name: str, parameter: str, ends: Sequence[float]) -> str | None:
    """Return why `space` cannot set a parameter's range to these ends."""
    settable = _settable(METHODS[name])
    if parameter not in settable:
        return f"{name} has no {parameter}"
    if any(_out_of_limits(settable[parameter], end) for end in ends):
        return f"must be {_limits_of(settable[parameter])}"
    return None


def _settable(method: Method) -> dict[str, Parameter]:
    parameters = {parameter.name: parameter for parameter in method.parameters}
    return parameters | ({"lambda": Parameter("lambda", 1.0)} if method.has_lambda else {})


def _out_of_limits(parameter: Parameter, value: Value) -> str | None:
    if isinstance(parameter.default, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool):
        return "must be a number, not true or false"
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
