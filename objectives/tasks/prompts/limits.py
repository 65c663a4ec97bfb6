"""What a prompt template may do: a budget in characters handled, and bounds for its values."""

import contextvars
import re
from collections.abc import Iterable
from typing import Any

from jinja2.exceptions import SecurityError

MAX_TEXT = 4_000_000
"""Characters of one value; an item of a list counts as several."""
MAX_SOURCE = 50_000
"""Characters of a template."""
START, PER_RENDER, PER_CHARACTER = 20_000_000, 100_000, 40
"""The budget of a template: at first, for each text that it makes, and for the text's question."""
OPERATION, ITERATION = 250, 20
_MAX_ITEMS, _ITEM = 100_000, 20
_MAX_FORMAT = 10_000
"""Characters of a text with places to fill in."""
_MAX_NUMBER, _MAX_BITS = 100_000, 4096
_GROWING = ("format", "indent", "join", "replace", "wordwrap")
"""What makes a text as long as the product of its arguments."""


class Refused(SecurityError):
    """What a template asks for is too much, or not available."""


class Budget:
    """What a template may still do."""

    def __init__(self, size: int) -> None:
        self.left = START
        self.size = size
        """Nodes of the template."""

    def charge(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise Refused("it runs for too long; simplify its loops")


current_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")


def weight(value: Any) -> int:
    """Characters of a value, those of its parts included. Raises Refused."""
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
    current_budget.get().charge(OPERATION + weight(value))
    return value


def check_call(name: str, values: Iterable[Any]) -> None:
    """Charge for a call and refuse one whose result would be out of bounds. Raises Refused."""
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
    """The numbers in a text that is to be filled in: widths, precisions, places."""
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
    """Raises Refused where a product or power has too many characters, items or digits."""
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "**":
        if whole and left.bit_length() * abs(right) > _MAX_BITS:
            raise Refused("a power with too many digits")
        return
    if whole:
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise Refused("a product with too many digits")
    elif isinstance(left, int) or isinstance(right, int):
        value, times = (right, left) if isinstance(left, int) else (left, right)
        if not isinstance(value, float) and weight(value) * times > MAX_TEXT:
            raise Refused(f"a text or list is longer than {MAX_TEXT:,}")
