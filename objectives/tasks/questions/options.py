"""Find the options that a question lists, or that it has a list in an unknown format.

Options are numbered (0. 1) 2: (3) [4] 5、 ⑥, "Option 1:") or lettered (A. b) C: (D) [E]), each on
a line of its own or all on one line.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from . import scales

CIRCLED = "\u2460-\u249b\u24ea\u24f5-\u24fe\u2776-\u2793"
"""Single characters that are numbers in circles, in parentheses or with a full stop."""
_OPEN, _CLOSE, _AFTER = r"[(\[（【]", r"[)\]）】]", r"[.):．。）：、]"
_BEFORE = r"^[ \t]*(?:[-*•][ \t]+)?(?:\*\*|__)?(?:(?:option|choice)[ \t]+)?"


def _marks(before: str, name: str, after: str = "", single: str = "") -> re.Pattern[str]:
    """Match a name in brackets or before a full stop, colon or closing bracket, or `single`."""
    body = rf"(?:{_OPEN}[ \t]*({name})[ \t]*{_CLOSE}|({name})[ \t]*{_AFTER}{after})"
    return re.compile(before + body + single, re.MULTILINE | re.IGNORECASE)


_DIGITS = r"\d{1,2}"
_ALONE = r"(?:(?<=[)．）：、])|(?!\S))"
_PLAIN = re.compile(r"^[ \t]*(\d{1,2})[ \t]*[.):][ \t]*(?=\S)", re.MULTILINE)
_NUMBER = _marks(_BEFORE, _DIGITS, single=rf"|^[ \t]*([{CIRCLED}])")
_INLINE_NUMBER = _marks(
    r"(?<!\S)", _DIGITS, _ALONE, rf"|([{CIRCLED}])|(?<![\w.])(\d)[ \t]*=[ \t]*(?=\S)"
)
_LETTER = _marks(_BEFORE, "[a-z]")
_INLINE_LETTER = _marks(r"(?<!\S)", "[a-z]", _ALONE)
_JOINED = re.compile(
    r"[ \t]*(?:and|or|und|oder|et|ou)[ \t]+(?:\w+[ \t]+)?[(\[]?(?:\d|[a-z][.):\]])", re.IGNORECASE
)
"""What follows a number that is no option but part of a sentence, as in "1. and also 3"."""
_BULLET = re.compile(r"^[ \t]*(?:[-*+–—][ \t]+|[•‣◦▪●○·☐□➢→])[ \t]*\S", re.MULTILINE)
_ANNOUNCED = re.compile(r"\b(?:options?|choices|candidates)[ \t]*:", re.IGNORECASE)
_MARKED = re.compile(
    rf"^[ \t]*[^\w\n]{{0,3}}(?:[^\W_aq]|\d{{2,}}|[ivx]{{1,4}})[ \t]*{_AFTER}(?!\d)",
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


class Mark(NamedTuple):
    """The number or letter of a possible option."""

    position: int
    number: int
    """A letter's code."""
    style: str
    """The punctuation around it."""


class Options:
    """The options in a text. Each property is computed when it is first read."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the last numbered list, or of a scale ("1 to 5"); or empty."""
        marks = self._lines
        if _is_ambiguous(self._text, marks) or _is_followed(self._text, marks):
            return ()
        return _listed(self._text, marks) or scales.scale(self._text) or _inline(self._inline)

    @cached_property
    def letters(self) -> str:
        """The letters of the lettered list, in the text's case; empty if there is none."""
        return _letters(_LETTER, self._text) or _letters(_INLINE_LETTER, self._text)

    @cached_property
    def repeated_number(self) -> int | None:
        """A number that two options of the numbered list have; None if there is none."""
        if _listed(self._text, self._lines):
            return _repeated(self._text, self._lines, self.numbers)
        if scales.scale(self._text):
            return None
        return _repeated(self._text, self._inline, self.numbers)

    @cached_property
    def repeated_letter(self) -> str | None:
        """A letter that two options of the lettered list have; None if there is none."""
        pattern = _LETTER if _letters(_LETTER, self._text) else _INLINE_LETTER
        marks = _letter_marks(pattern, self._text)
        code = _repeated(self._text, marks, tuple(map(ord, self.letters)))
        return None if code is None else chr(code)

    @cached_property
    def unknown(self) -> bool:
        """Whether there is a list or a scale whose format is unknown."""
        if self.numbers or self.letters:
            return False
        return _has_list(self._text) or scales.is_unknown(self._text)

    @cached_property
    def _lines(self) -> list[Mark]:
        return _number_marks(_NUMBER, self._text)

    @cached_property
    def _inline(self) -> list[Mark]:
        return _number_marks(_INLINE_NUMBER, self._text)


def _number_marks(pattern: re.Pattern[str], text: str) -> list[Mark]:
    return [Mark(m.start(), _number(m), _style(m)) for m in _matches(pattern, text)]


def _letter_marks(pattern: re.Pattern[str], text: str) -> list[Mark]:
    return [Mark(m.start(), ord(m[1] or m[2]), _style(m)) for m in _matches(pattern, text)]


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the matches that are not part of a sentence."""
    return (m for m in pattern.finditer(text) if not _JOINED.match(text, m.end()))


def _style(match: re.Match[str]) -> str:
    return re.sub(r"[\w\s]", "", match[0])


def _repeated(text: str, marks: Sequence[Mark], options: Sequence[int]) -> int | None:
    """Return the number of two options of the list that has these numbers; None if there is none.

    Marks in another style than the list's are part of its texts. Another list begins with the first
    number, unless that is in the line before, or in the same line.
    """
    if not options:
        return None
    styles = {mark.style for mark in marks}
    by_style = [[mark for mark in marks if mark.style == style] for style in sorted(styles)]
    own = [of for of in by_style if {mark.number for mark in of} >= set(options)]
    own = own or [list(marks)]
    before: list[Mark] = []
    repeated = None
    for mark in own[0]:
        numbers = [other.number for other in before]
        if mark.number == options[0]:
            is_second = numbers == [mark.number] and _are_adjacent(text, before[0], mark)
            before, repeated = [mark], mark.number if is_second else None
        elif mark.number in numbers:
            repeated = mark.number
        elif mark.number in options:
            before.append(mark)
    return repeated


def _are_adjacent(text: str, one: Mark, other: Mark) -> bool:
    """Return whether two marks are in the same line or in consecutive ones."""
    return text[one.position : other.position].strip("\n").count("\n") == 0


def _listed(text: str, marks: Sequence[Mark]) -> tuple[int, ...]:
    plain = [Mark(m.start(), int(m[1]), _style(m)) for m in _matches(_PLAIN, text)]
    old, new = _ascending(plain), _ascending(marks)
    if new and new[0].number in (0, 1) and (not old or new[0].position > old[-1].position):
        return tuple(mark.number for mark in new)
    if old and old[0].number in (0, 1):
        return tuple(mark.number for mark in old)
    return _shuffled(plain) or _shuffled(marks) or (() if old else _earlier(marks))


def _is_ambiguous(text: str, marks: Sequence[Mark]) -> bool:
    """Return whether the line before the last list has the list's first number too, or, if the
    list is not in order, any of its numbers, so that this number names two options."""
    last = _ascending(marks)
    place = len(marks) - len(last) - 1
    if not last and _shuffled(marks):
        while place >= 0 and marks[place].number not in {mark.number for mark in last}:
            last.insert(0, marks[place])
            place -= 1
    elif not last or place < 0 or marks[place].number != last[0].number:
        return False
    return place >= 0 and _are_adjacent(text, marks[place], last[0])


def _is_followed(text: str, marks: Sequence[Mark]) -> bool:
    """Return whether a lettered or bulleted list begins after the last number, so that the numbers
    belong to the question."""
    if len(marks) < 2:
        return False
    rest = text[marks[-1].position :]
    return bool(_letters(_LETTER, rest)) or len(_BULLET.findall(rest)) > 1


def _number(match: re.Match[str]) -> int:
    [text] = [group for group in match.groups() if group]
    return number_of(text)


def number_of(text: str) -> int:
    """Return the value of digits or of a single character such as ③."""
    return int(text) if text.isdecimal() else int(unicodedata.numeric(text))


def _ascending(marks: Sequence[Mark]) -> list[Mark]:
    """Return the last marks with consecutive numbers; empty if there are fewer than two."""
    start = len(marks) - 1
    while start > 0 and marks[start - 1].number == marks[start].number - 1:
        start -= 1
    return list(marks[start:]) if len(marks) - start >= 2 else []


def _shuffled(marks: Sequence[Mark]) -> tuple[int, ...]:
    """Return the numbers of the last marks if they are those from 0 or 1 upwards in any order."""
    numbers: list[int] = []
    longest: tuple[int, ...] = ()
    for number in (mark.number for mark in reversed(marks)):
        if number in numbers:
            break
        numbers.append(number)
        low, high = min(numbers), max(numbers)
        if len(numbers) > 2 and low in (0, 1) and high - low == len(numbers) - 1:
            longest = tuple(range(low, high + 1))
    return longest


def _earlier(marks: Sequence[Mark]) -> tuple[int, ...]:
    """Return the numbers of the last marks that count upwards from 0 or 1, anywhere in the text."""
    run: list[int] = []
    last: list[int] = []
    for number in (mark.number for mark in marks):
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        if len(run) > 1 and run[0] in (0, 1):
            last = run
    return tuple(last)


def _inline(marks: Sequence[Mark]) -> tuple[int, ...]:
    """Return the last list within a line that counts upwards from 0 or 1, with possible gaps.

    It is empty if the list's style also marks a number below the first, or one just above the last:
    the options are then in another order.
    """
    for first in (0, 1):
        if chain := _chain([mark.number for mark in marks], first):
            return () if _is_out_of_order(marks, chain) else tuple(chain)
    return ()


def _is_out_of_order(marks: Sequence[Mark], chain: Sequence[int]) -> bool:
    styles = {mark.style for mark in marks if mark.number == chain[0]}
    others = {mark.number for mark in marks if mark.style in styles}
    return min(others) < chain[0] or chain[-1] + 1 in others


def _letters(pattern: re.Pattern[str], text: str) -> str:
    """Return the letters of the last list that begins with A or a."""
    codes = [mark.number for mark in _letter_marks(pattern, text)]
    upper, lower = (_chain(codes, ord(first)) for first in "Aa")
    return "".join(map(chr, upper if len(upper) >= len(lower) else lower))


def _chain(numbers: Sequence[int], first: int) -> list[int]:
    """Return the last chain of consecutive numbers that begins with `first`."""
    chain: list[int] = []
    last: list[int] = []
    for number in numbers:
        if number == first:
            chain = [first]
        elif chain and number == chain[-1] + 1:
            chain.append(number)
            last = chain
    return last


def _has_list(text: str) -> bool:
    counted = [_value(match[1]) for match in _COUNTED.finditer(text)]
    scattered = [_value(match[1].lower()) for match in _SCATTERED.finditer(text)]
    return (
        _ANNOUNCED.search(text) is not None
        or len(_BULLET.findall(text)) > 1
        or len(_MARKED.findall(text)) > 1
        or any(a not in range(2, 100) and b == a + 1 for a, b in itertools.pairwise(counted))
        or any({_value(first), _value(first) + 1} <= set(scattered) for first in "01a")
    )


def _value(mark: str) -> int:
    """Return a number for comparisons; that of a letter is larger than all option numbers."""
    return int(mark) if mark.isdecimal() else 1000 + ord(mark)
