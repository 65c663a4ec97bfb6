"""Parse the label of a multiple-choice row: an option's number or letter, alone or before its text.

A label that could mean several options or is not an option's number ("1,2", "1 or 2", "1.5", "2-3",
"1/2") is refused; it is never truncated to its first digit.
"""

import math
import re
import reprlib
from typing import Any

from .options import CIRCLED, number_of


class BadRow(Exception):
    """A row cannot be read as a question; the message contains the reason."""


_ALSO = r"(?:or|and|to|through|und|oder|bis|et|ou|y|o|&|/|\||\+|,|;|~|-|–|—)"
_LABEL = re.compile(
    rf"(?:[(\[（【]\s*(?:(\d{{1,3}})|([a-z]))\s*[)\]）】]|(\d{{1,3}})|([{CIRCLED}])|([a-z]))"
    r"(?P<mark>\s*[.):．。：、）]|\s*[-–—,;](?=\s)|(?=\s)|$)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_ZEROS = re.compile(r"\d{1,3}\.0+")
_SEVERAL = re.compile(
    rf"\s*{_ALSO}\s*[(\[]?(?:\d|[a-z]\b)"  # "1) and 2)"
    r"|[\d\s,.;:()\[\]/&+|~–-]+$"  # "1. 2. 3."
    r"|(?:.*[\s,;/])?[(\[]?(?:\d{1,2}|[a-z])[.):\]](?:\s|$)"  # "1. soap 2. oil"
    rf"|\s*both\b|.*\b(?:\d{{1,2}}|[a-z])\s*{_ALSO}\s*(?:\d{{1,2}}|[a-z])\b",  # "1) 1 and 2"
    re.IGNORECASE | re.DOTALL,
)
_ALSO_FIRST = re.compile(rf"\s*{_ALSO}(?!\w)", re.IGNORECASE)


def label_in(raw: Any, text: str) -> int | str:
    """Return the number or letter of the option that the label `raw` names.

    `text` is the text of the question. Raises BadRow.
    """
    if isinstance(raw, list) and len(raw) == 1 and not isinstance(raw[0], list):
        raw = raw[0]
    if isinstance(raw, float) and math.isfinite(raw) and raw.is_integer():
        raw = int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    label = _of_text(raw.strip(), text) if isinstance(raw, str) else None
    if label is None:
        raise BadRow(
            f"label {short_repr(raw)} does not begin with the number or letter of one option, "
            'such as 2, "2. soap" or "B"'
        )
    return label


def _of_text(raw: str, text: str) -> int | str | None:
    if _ZEROS.fullmatch(raw):
        return int(raw.partition(".")[0])
    match = _LABEL.match(raw)
    if match is None:
        return None
    *names, mark, rest = match.groups()
    [name] = [name for name in names if name]
    if rest and not _is_text(raw, name, mark.strip(), rest, text):
        return None
    return name if name.isascii() and name.isalpha() else number_of(name)


def _is_text(raw: str, name: str, mark: str, rest: str, text: str) -> bool:
    """Return whether the text after the number or letter is an option's text or an explanation."""
    if mark and raw in text:
        return True
    bracketed = not raw.startswith(name)
    if rest[0].isdigit() and mark not in (")", "）") and not bracketed:
        return False
    if _SEVERAL.match(rest):
        return False
    if mark in (".", ")", ":", "．", "。", "：", "、", "）") or bracketed:
        return True
    dash = mark in ("-", "–", "—")
    if name.isalpha() and not dash:
        return False  # "a soap" does not mean option a
    return not _ALSO_FIRST.match(rest) and not any(c.isdigit() for c in rest)


def short_repr(value: Any) -> str:
    """Return a value as short text without control characters, for use in messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 40
    short.maxlevel = 3
    return short.repr(value)
