"""Limits of prompt templates: a budget for their work, and bounds for their values."""

import contextvars
import re
from collections.abc import Iterable
from typing import Any

from jinja2.exceptions import SecurityError

MAX_TEXT = 4_000_000
"""The maximum weight of a value in characters; see `weight`."""
MAX_SOURCE = 50_000
"""The maximum number of characters of a template."""
START, PER_RENDER, PER_CHARACTER = 20_000_000, 100_000, 40
"""The budget of a template: its initial value, and its increase for each rendering and for each
character of the question."""
OPERATION, ITERATION = 250, 20
"""The costs of an operation, and of an iteration of a loop."""
_MAX_ITEMS, _ITEM = 100_000, 20
_MAX_FORMAT = 10_000
"""The maximum number of characters of a format string."""
_MAX_NUMBER, _MAX_BITS = 100_000, 4096
_GROWING = ("format", "indent", "join", "replace", "wordwrap")
"""Functions whose result may be as long as the product of their arguments."""


class Refused(SecurityError):
    """A template exceeds a limit, or uses something that is not available."""


class Budget:
    """The work that a template may still do."""

    def __init__(self, size: int) -> None:
        self.left = START
        self.size = size
        """The number of nodes of the template."""

    def charge(self, cost: int) -> None:
        """Subtract a cost. Raises Refused if the budget is exhausted."""
        self.left -= cost
        if self.left < 0:
            raise Refused("it runs for too long; simplify its loops")


current_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")


def weight(value: Any) -> int:
    """Return the weight of a value: its characters, and a constant for each item in it.

    Raises Refused if the value exceeds a limit.
    """
    weight, items, left = 0, 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            weight += len(part)
        elif isinstance(part, list | tuple | dict | range):
            items += len(part)
            if items > _MAX_ITEMS:
                raise Refused(f"a list has more than {_MAX_ITEMS:,} items")
            if isinstance(part, list | tuple):
                left += part
            elif isinstance(part, dict):
                left += [*part, *part.values()]
        weight += 1
    weight += _ITEM * items
    if weight > MAX_TEXT:
        raise Refused(f"a text or list is longer than {MAX_TEXT:,} characters")
    return weight


def weighed(value: Any) -> Any:
    """Charge for a value and return it. Raises Refused."""
    current_budget.get().charge(OPERATION + weight(value))
    return value


def check_call(name: str, values: Iterable[Any]) -> None:
    """Charge for a call, and check that its result will be within the limits. Raises Refused."""
    values = list(values)
    numbers = [abs(v) for v in values if isinstance(v, int) and not isinstance(v, bool)]
    if any(number > _MAX_NUMBER for number in numbers):
        raise Refused(f"{name} with a number over {_MAX_NUMBER:,}")
    weights = [weight(value) for value in values]
    current_budget.get().charge(OPERATION + sum(weights))
    if name in _GROWING:
        widths = _widths(values[0]) if name == "format" and values else []
        factors = sorted([*numbers, *weights, *widths])[:-1]
        if sum(weights) * (1 + max(factors, default=0)) > MAX_TEXT * 5:
            raise Refused(f"{name} would make a text longer than {MAX_TEXT:,} characters")


def _widths(text: Any) -> list[int]:
    """Return the numbers in a format string, which may be widths and precisions. Raises Refused."""
    if not isinstance(text, str):
        return []
    if len(text) > _MAX_FORMAT:
        raise Refused(f"format of a text longer than {_MAX_FORMAT:,} characters")
    if re.search(r"\{[^{}]*\{", text):
        raise Refused("format with braces inside braces")
    digits = re.findall(r"\d+", text)
    if any(len(number) > 6 for number in digits):
        raise Refused("format with a width over 999,999")
    return list(map(int, digits))


def check_product(operator: str, left: Any, right: Any) -> None:
    """Check that a product or power will be within the limits. Raises Refused."""
    integers = isinstance(left, int) and isinstance(right, int)
    if operator == "**":
        if integers and left.bit_length() * abs(right) > _MAX_BITS:
            raise Refused("a power with too many digits")
        return
    if integers:
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise Refused("a product with too many digits")
    elif isinstance(left, int) or isinstance(right, int):
        value, times = (right, left) if isinstance(left, int) else (left, right)
        if not isinstance(value, float) and weight(value) * times > MAX_TEXT:
            raise Refused(f"a text or list is longer than {MAX_TEXT:,}")
