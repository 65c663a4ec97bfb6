"""The options that a question lists, and whether it has a list that is not recognised.

Options are numbered (0. 1) 2: (3) [4] 5、 ⑥, "Option 1:") or lettered (A. b) C: (D) [E]), one on
each line or all on one.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property

CIRCLED = "\u2460-\u249b\u24ea\u24f5-\u24fe\u2776-\u2793"
"""Numbers in circles, in parentheses and with a full stop, as one character."""
_OPEN, _CLOSE, _AFTER = r"[(\[（【]", r"[)\]）】]", r"[.):．。）：、]"
_BEFORE = r"^[ \t]*(?:[-*•][ \t]+)?(?:\*\*|__)?(?:(?:option|choice)[ \t]+)?"


def _marks(before: str, name: str, after: str = "", single: str = "") -> re.Pattern[str]:
    """A name in brackets, one before a full stop, colon or closing bracket, or `single`."""
    body = rf"(?:{_OPEN}[ \t]*({name})[ \t]*{_CLOSE}|({name})[ \t]*{_AFTER}{after})"
    return re.compile(before + body + single, re.MULTILINE | re.IGNORECASE)


_DIGITS = r"\d{1,2}"
_ALONE = r"(?:(?<=[)．）：、])|(?!\S))"
_PLAIN = re.compile(r"^[ \t]*(\d{1,2})[ \t]*[.):][ \t]*\S", re.MULTILINE)
_NUMBER = _marks(_BEFORE, _DIGITS, single=rf"|^[ \t]*([{CIRCLED}])")
_INLINE_NUMBER = _marks(
    r"(?<!\S)", _DIGITS, _ALONE, rf"|([{CIRCLED}])|(?<![\w.])(\d)[ \t]*=[ \t]*\S"
)
_LETTER = _marks(_BEFORE, "[a-z]")
_INLINE_LETTER = _marks(r"(?<!\S)", "[a-z]", _ALONE)
_SCALE = re.compile(r"\b(\d)\s*(?:-|–|to|and)\s*(\d)\b")
_BULLET = re.compile(r"^[ \t]*(?:[-*+–—][ \t]+|[•‣◦▪●○·☐□➢→])[ \t]*\S", re.MULTILINE)
_ANNOUNCED = re.compile(r"\b(?:options?|choices|candidates)[ \t]*:", re.IGNORECASE)
_MARKED = re.compile(
    rf"^[ \t]*[^\w\n]{{0,3}}(?:[^\W_aq]|\d{{2}}|[ivx]{{1,4}})[ \t]*{_AFTER}(?!\d)",
    re.MULTILINE | re.IGNORECASE,
)
_COUNTED = re.compile(
    r"^[ \t]*[^\w\n]{0,4}(\d{1,2}|[^\W\d_])(?:st|nd|rd|th|º|ª)?(?!\w)", re.MULTILINE
)
_SCATTERED = re.compile(
    r"(?:\b(?:option|choice|answer)[ \t]+|[(\[（【<{][ \t]*|(?<![\w.,]))(\d{1,2}|[a-z])"
    r"(?:[ \t]*[)\]）】>}.:：、|=](?!\d)|[ \t]*[/–—-][ \t]|(?<=option \w)\b|(?<=choice \w)\b)",
    re.IGNORECASE,
)

Mark = tuple[int, int]
"""Position and number."""


class Options:
    """What may be answered to a text; each part is looked for when it is asked for."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Of the last numbered list, else of a scale ("1 to 5"); empty if there is neither."""
        return _listed(self._text) or _scale(self._text) or _inline(self._text)

    @cached_property
    def letters(self) -> str:
        """Of the lettered list, in the case of the text; empty if there is none."""
        return _letters(_LETTER, self._text) or _letters(_INLINE_LETTER, self._text)

    @cached_property
    def unknown(self) -> bool:
        """Whether there is a list, and its marks are not recognised."""
        return not self.numbers and not self.letters and _has_list(self._text)


def _listed(text: str) -> tuple[int, ...]:
    plain = [(match.start(), int(match[1])) for match in _PLAIN.finditer(text)]
    marks = [(match.start(), _number(match)) for match in _NUMBER.finditer(text)]
    old, new = _ascending(plain), _ascending(marks)
    if new and new[0][1] in (0, 1) and (not old or new[0][0] > old[-1][0]):
        return tuple(number for _, number in new)
    if old:
        return tuple(number for _, number in old)
    return _shuffled(plain) or _shuffled(marks) or _earlier(marks)


def _number(match: re.Match[str]) -> int:
    [text] = [group for group in match.groups() if group]
    return number_of(text)


def number_of(text: str) -> int:
    """The number that digits or one character such as ③ stand for."""
    return int(text) if text.isdecimal() else int(unicodedata.numeric(text))


def _ascending(marks: Sequence[Mark]) -> list[Mark]:
    """The marks at the end that count upwards, at least two."""
    start = len(marks) - 1
    while start > 0 and marks[start - 1][1] == marks[start][1] - 1:
        start -= 1
    return list(marks[start:]) if len(marks) - start >= 2 else []


def _shuffled(marks: Sequence[Mark]) -> tuple[int, ...]:
    """The marks at the end that are 0 or 1 and the numbers after it in another order."""
    numbers: list[int] = []
    found: tuple[int, ...] = ()
    for _, number in reversed(marks):
        if number in numbers:
            break
        numbers.append(number)
        low, high = min(numbers), max(numbers)
        if len(numbers) > 2 and low in (0, 1) and high - low == len(numbers) - 1:
            found = tuple(range(low, high + 1))
    return found


def _earlier(marks: Sequence[Mark]) -> tuple[int, ...]:
    """The last marks that count upwards from 0 or 1, whatever follows them."""
    run: list[int] = []
    found: list[int] = []
    for _, number in marks:
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        if len(run) > 1 and run[0] in (0, 1):
            found = run
    return tuple(found)


def _scale(text: str) -> tuple[int, ...]:
    scales = [(int(match[1]), int(match[2])) for match in _SCALE.finditer(text)]
    low, high = next(((a, b) for a, b in scales if a in (0, 1) and b > 1), (0, -1))
    return tuple(range(low, high + 1))


def _inline(text: str) -> tuple[int, ...]:
    """The last list inside lines: from 0 or 1 upwards, other numbers between them or not."""
    numbers = [_number(match) for match in _INLINE_NUMBER.finditer(text)]
    for first in (0, 1):
        if chain := _chain(numbers, first):
            return tuple(chain)
    return ()


def _letters(pattern: re.Pattern[str], text: str) -> str:
    """The letters of the last list that begins with A or a."""
    codes = [ord(match[1] or match[2]) for match in pattern.finditer(text)]
    upper, lower = (_chain(codes, ord(first)) for first in "Aa")
    return "".join(map(chr, upper if len(upper) >= len(lower) else lower))


def _chain(numbers: Sequence[int], first: int) -> list[int]:
    """The last `first` that its next number follows, and those after it."""
    chain: list[int] = []
    found: list[int] = []
    for number in numbers:
        if number == first:
            chain = [first]
        elif chain and number == chain[-1] + 1:
            chain.append(number)
            found = chain
    return found


def _has_list(text: str) -> bool:
    counted = [_value(match[1]) for match in _COUNTED.finditer(text)]
    scattered = [_value(match[1].lower()) for match in _SCATTERED.finditer(text)]
    return (
        _ANNOUNCED.search(text) is not None
        or len(_BULLET.findall(text)) > 1
        or len(_MARKED.findall(text)) > 1
        or any(a not in range(2, 100) and b == a + 1 for a, b in itertools.pairwise(counted))
        or any(_chain(scattered, _value(first)) for first in "01a")
    )


def _value(mark: str) -> int:
    """A number to count with; that of a letter is beyond all numbers of options."""
    return int(mark) if mark.isdecimal() else 1000 + ord(mark)
