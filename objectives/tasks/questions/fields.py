"""Read the question, the answer and the options from the fields of a row."""

from dataclasses import dataclass
from typing import Any

from .labels import BadRow, short_repr

Row = dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """The names of a row's fields."""

    question: tuple[str, ...]
    """The fields of the question; their texts are joined by line breaks."""
    answer: str
    options: str | tuple[str, ...] | None = None
    """The field with all options, or a field for each; they are written below the question."""
    first: int | None = None
    """The number of the first of these options."""
    optional: tuple[str, ...] = ()
    """Question fields that may be missing."""


KNOWN_FIELDS = (
    Fields(("input_field",), "output_field"),  # KDD Cup 2024
    Fields(("input_field",), "target_field"),  # ShoppingMMLU
    Fields(("instruction", "input"), "output", optional=("input",)),  # Alpaca
)


def fields_of(row: Row, fields: Fields | None) -> Fields:
    """Return `fields`, or the known fields that the row has. Raises BadRow if any is missing."""
    if fields is None:
        for candidate in KNOWN_FIELDS:
            if candidate.question[0] in row and candidate.answer in row:
                return candidate
        partial = [f for f in KNOWN_FIELDS if f.question[0] in row or f.answer in row]
        fields = partial[0] if partial else KNOWN_FIELDS[0]
    options = (fields.options,) if isinstance(fields.options, str) else fields.options or ()
    required = [*fields.question, fields.answer, *options]
    for name in required:
        if name not in row and name not in fields.optional:
            raise BadRow(
                f"has no {name}; its fields are {field_names(row)}; set them in the task, for "
                "example fields: {question: ..., answer: ...}"
            )
    return fields


def text_of(row: Row, fields: Fields) -> str:
    """Return the question's text. Raises BadRow."""
    texts = []
    for name in fields.question:
        text = row.get(name)
        if text is not None and not isinstance(text, str):
            raise BadRow(f"{name} is {short_repr(text)}; it must be a string")
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


def field_names(row: Row) -> str:
    """Return the names of the first fields of a row, for use in messages."""
    names = [name if name.isidentifier() else short_repr(name) for name in list(row)[:8]]
    more = f" and {len(row) - 8} more" if len(row) > 8 else ""
    return (", ".join(name[:40] for name in names) + more) or "none"
