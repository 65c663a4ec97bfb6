"""Read question files: JSONL or a JSON list, with the fields of the KDD Cup 2024 or others.

Files differ: labels are integers, strings or lists, options count from 0 or from 1, and questions
end with "Answer:", "Output:", another cue, or none.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from objectives.errors import QuestionError
from objectives.tasks.task import Question

from .fields import Fields, Row, fields_of, text_of
from .labels import BadRow, short_repr
from .listed_options import list_of_texts, options_setting, with_options
from .options import Options
from .rows import RepeatedKey, read_rows

log = logging.getLogger(__name__)

OnBad = Literal["refuse", "skip"]
Labels = Callable[[Any, str], Sequence[int | str]]
"""Returns the labels in an answer, as numbers or letters, for a question with this text."""

MAX_TEXT = 500_000
"""The maximum number of characters of a question."""
_MAX_BAD_ROWS = 1000
"""The number of invalid rows after which reading stops."""
_CUE = re.compile(r"(?:\n[ \t]*(\w[\w ]{0,30}?)|\s(Answer|Output))[ \t]*:\s*$", re.IGNORECASE)
_KINDS = {
    "multiple-choice": "multiple_choice",
    "multiple choice": "multiple_choice",
    "multiple_choice": "multiple_choice",
    "retrieval": "retrieval",
    "ranking": "ranking",
    "generation": "generation",
    "named_entity_recognition": "named_entity_recognition",
}


def read_questions(
    path: Path,
    kind: str,
    parse: Callable[[Row], Question],
    on_bad: OnBad = "refuse",
    level: int = logging.WARNING,
) -> tuple[Question, ...]:
    """Return the questions of a file, ordered by id, independent of the order of rows.

    Exact duplicates are dropped. Rows that `parse` refuses, and questions with different labels,
    raise QuestionError, or are left out if on_bad is "skip", which is logged at `level`.
    """
    by_text: dict[str, tuple[str, Question]] = {}
    bad: list[str] = []
    contradictory: set[str] = set()
    repeated = 0
    for location, row in read_rows(path):
        if len(bad) == _MAX_BAD_ROWS and on_bad == "refuse":
            break
        try:
            question = dataclasses.replace(_parsed(row, kind, parse), location=location)
        except BadRow as error:
            bad.append(f"{location}: {error}")
            continue
        first, other = by_text.setdefault(question.text, (location, question))
        if other.labels != question.labels:
            bad.append(f"{location}: the same question as {first} with another label")
            contradictory.add(question.text)
        elif first != location:
            repeated += 1
    if bad and on_bad == "refuse":
        count = f"{len(bad)}{' or more' if len(bad) >= _MAX_BAD_ROWS else ''}"
        more = f" ({count} such rows)" if len(bad) > 1 else ""
        remedy = "; correct it, or set on_bad: skip" if by_text else ", and no row is valid"
        raise QuestionError(f"{bad[0]}{more}{remedy}")
    if bad:
        log.log(level, "%s: left out %d bad rows; the first is %s", path.name, len(bad), bad[0])
    if repeated:
        log.info("%s: %d exact duplicates dropped", path.name, repeated)
    questions = [q for text, (_, q) in by_text.items() if text not in contradictory]
    if not questions:
        raise QuestionError(f"{path} has no questions")
    return tuple(sorted(questions, key=lambda q: q.id))


def question_of(row: Row, labels: Labels, fields: Fields | None = None) -> Question:
    """Return the question of a row, whose labels must be among its options.

    The fields are `fields`, or those of a known format. Raises BadRow.
    """
    body, cue, answer = parts_of(row, fields)
    return _labelled(body, cue, labels(answer, body), row)


def parts_of(row: Row, fields: Fields | None = None) -> tuple[str, str, Any]:
    """Return the text of a row's question, its cue, and the value of its answer.

    The text is checked as text from a file that is not trusted. Raises BadRow.
    """
    fields = fields_of(row, fields)
    text, answer = with_options(text_of(row, fields), row, fields)
    if len(text) > MAX_TEXT:
        raise BadRow(f"the question has {len(text):,} characters, more than {MAX_TEXT:,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        part = short_repr(text[error.start : error.end])
        raise BadRow(f"the question has an invalid character, {part}") from None
    if "\0" in text:
        raise BadRow("the question has a NUL character")
    body, cue = split_cue(text)
    if not body:
        raise BadRow(f"{fields.question[0]} has nothing before its last colon")
    return body, cue, answer


def _labelled(body: str, cue: str, labels: Sequence[int | str], row: Row) -> Question:
    options = Options(body)
    letters = [label for label in labels if isinstance(label, str)]
    if letters:
        if not options.letters:
            _check_options_are_not_elsewhere(row)
        return _lettered(body, cue, letters[0], options)
    numbers = tuple(label for label in labels if isinstance(label, int))
    if not options.numbers:
        _check_unlisted(options, numbers, row)
    _check_unique(options.repeated_number)
    choice = options.numbers or (0, 1, 2, 3)
    outside = [number for number in numbers if number not in choice]
    if outside:
        without = "" if options.numbers else ", which a question without a list or a scale has"
        raise BadRow(
            f"label {short_repr(outside[0])} is not among the options {choice[0]} to {choice[-1]}"
            f"{without}"
        )
    return Question(body, cue, numbers, choice)


def _lettered(body: str, cue: str, label: str, options: Options) -> Question:
    if not options.letters:
        raise BadRow(f"label {label} is a letter, but no lettered list of options is recognized")
    _check_unique(options.repeated_letter)
    index = options.letters.lower().find(label.lower())
    if index < 0:
        low, high = options.letters[0], options.letters[-1]
        raise BadRow(f"label {label} is not among the options {low} to {high}")
    numbers = tuple(range(len(options.letters)))
    return Question(body, cue, (index,), numbers, letters=options.letters)


def _check_unique(repeated: int | str | None) -> None:
    """Check that no two options have the same number or letter. Raises BadRow."""
    if repeated is not None:
        raise BadRow(f"two of its options are numbered or lettered {repeated}; renumber them")


def _check_unlisted(options: Options, numbers: Sequence[int], row: Row) -> None:
    """Check that a question without a numbered list may have the options 0 to 3. Raises BadRow."""
    if options.letters:
        raise BadRow(
            f"label {short_repr(numbers[0])} is a number, but the options are lettered "
            f"{options.letters[0]} to {options.letters[-1]}"
        )
    if options.unknown:
        raise BadRow(
            "its list of options is not recognized; number the options as 0., 1) or (1), or letter "
            "them as A. or (A)"
        )
    _check_options_are_not_elsewhere(row)


def _check_options_are_not_elsewhere(row: Row) -> None:
    """Check that no field of a row looks like its options. Raises BadRow."""
    name = options_setting(row) or list_of_texts(row)
    if name is not None:
        raise BadRow(
            f"its options seem to be in {name}; say so in the task, for example "
            f"fields: {{question: ..., options: {name}, answer: ...}}"
        )


def split_cue(text: str) -> tuple[str, str]:
    """Split a text into the question and its cue, the word before a final colon; empty if none."""
    match = _CUE.search(text)
    if match is None:
        return text.strip(), ""
    return text[: match.start()].strip(), (match[1] or match[2]).strip()


def _parsed(row: Any, kind: str, parse: Callable[[Row], Question]) -> Question:
    if isinstance(row, RepeatedKey):
        raise BadRow(f"the key {short_repr(row.key)} is repeated")
    if not isinstance(row, dict):
        raise BadRow("is not an object with input_field and output_field")
    _check_kind(row, kind)
    return parse(row)


def _check_kind(row: Row, kind: str) -> None:
    stated = row.get("task_type")
    stated_kind = _KINDS.get(stated.strip().lower()) if isinstance(stated, str) else None
    if stated_kind not in (None, kind):
        raise BadRow(f"task_type is {stated}, but the kind of the task is {kind}")
