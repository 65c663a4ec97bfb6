"""Options that a row holds in fields of their own, and how they are written below the question."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from .fields import Fields, Row, answer_of
from .labels import BadRow, label_in, short_repr

_LISTS = ("options", "choices", "candidates", "endings")
_COLUMN = re.compile(
    r"(options?|choices?|op|opt|answer|ending|)[ _-]?([a-z]|\d{1,2})", re.IGNORECASE
)
_MOST = 26
_SERIES = (
    tuple(ascii_lowercase),
    *(tuple(str(number) for number in range(first, first + _MOST)) for first in (0, 1)),
)


@dataclass(frozen=True)
class ListedOptions:
    """The options of a row."""

    texts: Sequence[str]
    labels: Sequence[str]
    """The names that an answer may call the options by; empty if the row has none."""

    def index(self, answer: Any) -> int | None:
        """Return the index of the option that the answer names by its text or label; None if it is
        neither. Raises BadRow if it may be another option's."""
        by_label = None
        if isinstance(answer, str | int) and not isinstance(answer, bool):
            names = [label.lower() for label in self.labels]
            name = str(answer).strip().lower()
            by_label = names.index(name) if name in names else None
        is_text = isinstance(answer, str) and answer in self.texts
        by_text = self.texts.index(answer) if is_text else None
        if by_label is None and by_text is not None and answer.strip().isdecimal():
            raise BadRow(
                f"label {short_repr(answer)} is ambiguous: it may be an option's number or its text"
            )
        if by_label is not None and by_text not in (None, by_label):
            raise BadRow(
                f"label {short_repr(answer)} is ambiguous: it is the name of one option and the "
                "text of another"
            )
        return by_text if by_label is None else by_label


def with_options(text: str, row: Row, fields: Fields) -> tuple[str, Any]:
    """Return the question with its options below it, and its answer as one of them.

    Raises BadRow.
    """
    answer = answer_of(row, fields)
    if fields.options is None:
        return text, answer
    options = options_of(row, fields.options)
    body, first, count = text.strip(), fields.first or 0, len(options.texts)
    letters = list(ascii_uppercase[:count])
    index = options.index(answer)
    if index is None and isinstance(label_in(answer, body), str):
        return body + _lines(letters, options.texts), answer
    if index is None and fields.first is None:
        raise BadRow(
            f"label {short_repr(answer)} may count from 0 or from 1; set fields.first to the "
            "number of the first option"
        )
    if index is not None and [label.upper() for label in options.labels] == letters:
        return body + _lines(letters, options.texts), letters[index]
    marks = [str(first + i) for i in range(count)]
    return body + _lines(marks, options.texts), answer if index is None else first + index


def options_field(row: Mapping[str, Any]) -> str | None:
    """Return the name of a field that probably has all options; None if there is none."""
    return next((name for name in _LISTS if isinstance(row.get(name), list | dict)), None)


def list_of_texts(row: Mapping[str, Any]) -> str | None:
    """Return the name of a field of any name that may have all options; None if there is none."""
    return next((name for name, value in row.items() if _is_list_of_texts(value)), None)


def options_setting(row: Mapping[str, Any]) -> str | None:
    """Return `fields.options` as it is written for the fields that probably have the options."""
    columns = option_columns(row)
    return options_field(row) or (f"[{', '.join(columns)}]" if columns else None)


def _is_list_of_texts(value: Any) -> bool:
    """Return whether a value is a list of texts that are not all numbers, as labels may be."""
    if not isinstance(value, list) or not 2 <= len(value) <= _MOST:
        return False
    texts = [item for item in value if isinstance(item, str) and item.strip()]
    return len(texts) == len(value) and not all(text.strip().isdecimal() for text in texts)


def option_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields that probably have an option each, such as A, B and C or option1 and
    option2, in order; empty if there are none."""
    groups: dict[str, dict[str, str]] = {}
    for name, value in row.items():
        match = _COLUMN.fullmatch(name)
        if match is not None and (value is None or isinstance(value, str)):
            groups.setdefault(match[1].lower(), {})[match[2].lower()] = name
    for columns in groups.values():
        for marks in _SERIES:
            names = [columns[mark] for mark in itertools.takewhile(columns.__contains__, marks)]
            if len(names) > 1:
                return tuple(names)
    return ()


def options_of(row: Row, names: str | tuple[str, ...]) -> ListedOptions:
    """Return the options in a field, or in a field for each. Raises BadRow."""
    if isinstance(names, tuple):
        texts = [row[name] for name in names]
        while texts and texts[-1] in (None, ""):
            texts.pop()
        source, labels = ", ".join(names), list(names[: len(texts)])
    else:
        source, value, labels = names, row[names], []
        texts = value
        if isinstance(value, dict):
            is_pair = {"text", "label"} <= value.keys() and isinstance(value["label"], list)
            texts = value["text"] if is_pair else list(value.values())
            labels = [str(label) for label in (value["label"] if is_pair else value)]
    are_texts = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
    if not are_texts or not 2 <= len(texts) <= _MOST or (labels and len(labels) != len(texts)):
        value = texts if isinstance(names, tuple) else row[names]
        raise BadRow(f"{source}: {short_repr(value)} is not a list of 2 to {_MOST} texts")
    return ListedOptions(texts, labels)


def _lines(marks: Sequence[str], texts: Sequence[str]) -> str:
    return "".join(f"\n{mark}. {' '.join(t.split())}" for mark, t in zip(marks, texts, strict=True))
