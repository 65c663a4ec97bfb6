"""Find the scale that a question asks for, such as "from 1 to 5" or "on a scale of 0-10"."""

import re
from collections.abc import Iterator

_RANGE = re.compile(
    r"(?P<before>\b(?:from|between|scale of)[ \t]+)?"
    r"(?<![\w.,])(?P<low>\d{1,3})\s*(?P<joint>-|–|to|and)\s*(?P<high>\d{1,3})(?!\w|[.,]\d)",
    re.IGNORECASE,
)
_RATING = re.compile(r"\b(?:rat(?:e|ed|ing)|scale|scor(?:e|ed)|grad(?:e|ed))\b", re.IGNORECASE)
_DISTANCE = 100
"""The number of characters before a range in which such a word is searched."""


def scale(text: str) -> tuple[int, ...]:
    """Return the numbers of the first scale from 0 or 1; empty if there is none.

    A range up to a number of two digits is a scale only after a word such as rate or from.
    """
    for match in _ranges(text):
        low, high = int(match["low"]), int(match["high"])
        most = 99 if match["before"] or _is_rating(text, match) else 9
        if low in (0, 1) and 1 < high <= most:
            return tuple(range(low, high + 1))
    return ()


def is_unknown(text: str) -> bool:
    """Return whether there is a scale for ratings that is not one from 0 or 1, such as 0 to 100."""
    return not scale(text) and any(_is_rating(text, match) for match in _ranges(text))


def _ranges(text: str) -> Iterator[re.Match[str]]:
    """Yield the ranges of two numbers; "1 and 3" is one only after "between"."""
    for match in _RANGE.finditer(text):
        is_between = (match["before"] or "").strip().lower() == "between"
        if is_between or match["joint"].lower() != "and":
            yield match


def _is_rating(text: str, match: re.Match[str]) -> bool:
    """Return whether a word before a range, in its line, says that it is a scale."""
    farthest = max(0, match.start() - _DISTANCE)
    start = max(farthest, text.rfind("\n", farthest, match.start()) + 1)
    return _RATING.search(text, start, match.start("low")) is not None
