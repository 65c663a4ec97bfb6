"""Read the question, the answer and the options from the fields of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .labels import BadRow, label_in, shown

Row = dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """The names of a row's fields."""

    question: tuple[str, ...]
    """The fields of the question; their texts are joined by line breaks."""
    answer: str
    options: str | None = None
    """The field with a list of texts that are written below the question."""
    first: int | None = None
    """The number of the first of these options."""
    optional: tuple[str, ...] = ()
    """Question fields that may be missing."""


KNOWN_FIELDS = (
    Fields(("input_field",), "output_field"),  # KDD Cup 2024
    Fields(("input_field",), "target_field"),  # ShoppingMMLU
    Fields(("instruction", "input"), "output", optional=("input",)),  # Alpaca
)
_LISTS = ("options", "choices", "candidates", "endings")


def fields_of(row: Row, fields: Fields | None) -> Fields:
    """Return `fields`, or the known fields that the row has. Raises BadRow if any is missing."""
    if fields is None:
        for candidate in KNOWN_FIELDS:
            if candidate.question[0] in row and candidate.answer in row:
                return candidate
        partial = [f for f in KNOWN_FIELDS if f.question[0] in row or f.answer in row]
        fields = partial[0] if partial else KNOWN_FIELDS[0]
    required = [*fields.question, fields.answer, *([fields.options] if fields.options else [])]
    for name in required:
        if name not in row and name not in fields.optional:
            raise BadRow(
                f"has no {name}; its fields are {_field_names(row)}; set them in the task, for "
                "example fields: {question: ..., answer: ...}"
            )
    return fields


def text_of(row: Row, fields: Fields) -> str:
    """Return the question's text. Raises BadRow."""
    texts = []
    for name in fields.question:
        text = row.get(name)
        if text is not None and not isinstance(text, str):
            raise BadRow(f"{name} is {shown(text)}; it must be a text")
        if text and text.strip():
            texts.append(text)
    if not texts:
        raise BadRow(f"{fields.question[0]} is empty")
    return "\n".join(texts)


def answer_of(row: Row, fields: Fields) -> Any:
    """Return the answer's value. Raises BadRow."""
    answer = row[fields.answer]
    if answer in (None, "", []):
        raise BadRow(f"{fields.answer} is empty")
    return answer


def with_options(text: str, row: Row, fields: Fields) -> tuple[str, Any]:
    """Return the question with its options below it, and its answer as one of them.

    Raises BadRow.
    """
    answer = answer_of(row, fields)
    if fields.options is None:
        return text, answer
    options = row[fields.options]
    are_texts = isinstance(options, list) and all(isinstance(option, str) for option in options)
    if not are_texts or not 2 <= len(options) <= 26:
        raise BadRow(f"{fields.options} is {shown(options)}; it must be a list of 2 to 26 texts")
    body = text.strip()
    if isinstance(answer, str) and answer in options:
        if answer.strip().isdecimal():
            raise BadRow(
                f"label {shown(answer)} is ambiguous: it may be an option's number or its text"
            )
        answer = (fields.first or 0) + options.index(answer)
    elif isinstance(label_in(answer, body), str):
        return body + _option_lines([chr(65 + i) for i in range(len(options))], options), answer
    elif fields.first is None:
        raise BadRow(
            f"label {shown(answer)} may count from 0 or from 1; set fields.first to the number of "
            "the first option"
        )
    start = fields.first or 0
    return body + _option_lines([str(start + i) for i in range(len(options))], options), answer


def options_field(row: Mapping[str, Any]) -> str | None:
    """Return the name of a field that probably has the options; None if there is none."""
    return next((name for name in _LISTS if isinstance(row.get(name), list | dict)), None)


def _option_lines(marks: list[str], options: list[str]) -> str:
    lines = (f"\n{mark}. {' '.join(o.split())}" for mark, o in zip(marks, options, strict=True))
    return "".join(lines)


def _field_names(row: Row) -> str:
    names = [name if name.isidentifier() else shown(name) for name in list(row)[:8]]
    more = f" and {len(row) - 8} more" if len(row) > 8 else ""
    return (", ".join(name[:40] for name in names) + more) or "none"
