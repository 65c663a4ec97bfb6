"""Determine how to read a question file: its kind, its fields and the form of its labels."""

import contextlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from objectives.errors import QuestionError
from objectives.tasks.questions.fields import KNOWN_FIELDS, Fields, Row, field_names
from objectives.tasks.questions.labels import BadRow
from objectives.tasks.questions.listed_options import (
    list_of_texts,
    option_columns,
    options_field,
    options_of,
    options_setting,
)
from objectives.tasks.questions.options import Options
from objectives.tasks.questions.question_files import OnBad, read_questions
from objectives.tasks.questions.rows import read_rows
from objectives.tasks.task import Question
from study.setup.tasks import TASK_KINDS

_QUESTION = ("question", "query", "prompt", "problem", "input", "instruction", "stem", "text")
_CONTEXT = ("context", "passage", "background")
_ANSWER = (
    *("answer", "label", "target", "gold", "correct_answer", "correct", "answerKey"),
    *("answer_index", "answer_idx", "output", "response"),
)
_MOSTLY = 0.9
"""The minimum share of the different rows that must be valid if the others are left out."""


@dataclass(frozen=True)
class QuestionFile:
    """How to read a question file."""

    path: Path
    kind: str
    fields: Fields | None
    """None if the rows have the fields of a format that needs no `fields`."""
    on_bad: OnBad
    count: int
    """The number of valid questions."""
    left_out: int
    """The number of rows that are left out with `on_bad: skip`: rows that are not valid questions,
    the same question with different labels, and exact duplicates."""
    labels: str
    """The form of the labels: "numbers from 0", "numbers from 1" or "letters"."""

    @property
    def name(self) -> str:
        """The name of the task: the file's name without its suffix and special characters."""
        return re.sub(r"[^\w.+-]+", "_", self.path.stem).strip("_") or "questions"


def inspect_file(path: Path) -> QuestionFile:
    """Return how to read a question file. Raises QuestionError if that is not certain."""
    rows = [row for _, row in read_rows(path) if isinstance(row, dict)]
    if not rows:
        raise QuestionError(f"{path} has no questions")
    fields = _fields(path, rows)
    problems = []
    parsers = {name: partial(kind.parse_row, fields=fields) for name, kind in TASK_KINDS.items()}
    for kind, parse in parsers.items():
        try:
            questions = read_questions(path, kind, parse)
        except QuestionError as error:
            problems.append(error)
        else:
            return QuestionFile(path, kind, fields, "refuse", *_facts(questions, len(questions)))
    distinct = len({json.dumps(row, sort_keys=True, default=str) for row in rows})
    for kind, parse in parsers.items():
        try:
            questions = read_questions(path, kind, parse, "skip", logging.DEBUG)
        except QuestionError:
            continue
        if len(questions) >= _MOSTLY * distinct:
            return QuestionFile(path, kind, fields, "skip", *_facts(questions, len(rows)))
    raise problems[0]


def _facts(questions: Sequence[Question], rows: int) -> tuple[int, int, str]:
    first = min(question.options[0] for question in questions)
    lettered = all(question.letters for question in questions)
    labels = "letters" if lettered else f"numbers from {first}"
    return len(questions), rows - len(questions), labels


def _fields(path: Path, rows: Sequence[Row]) -> Fields | None:
    """Return the fields of the rows, or None if their format needs no `fields`.

    Raises QuestionError.
    """
    row = rows[0]
    if any(fields.question[0] in row and fields.answer in row for fields in KNOWN_FIELDS):
        return None
    question = next((name for name in _QUESTION if name in row), None)
    answer = next((name for name in _ANSWER if name in row and name != question), None)
    if question is None or answer is None:
        missing = "question" if question is None else "answer"
        raise QuestionError(
            f"{path}: no field has a usual name for the {missing}; the fields are "
            f"{field_names(row)}. Rename the {missing}'s field to {missing}, or write the study "
            f"file by hand with fields: {{{_mapping(row, question, answer)}}} (docs/config.md)"
        )
    context = tuple(name for name in _CONTEXT if name in row and name != question)
    options = options_field(row) or option_columns(row) or None
    text = Options(str(row[question]))
    if options is None and not (text.numbers or text.letters or isinstance(row[answer], list)):
        options = list_of_texts(row)
    first = None if options is None else _first(path, rows, answer, options)
    return Fields((*context, question), answer, options, first)


def _mapping(row: Row, question: str | None, answer: str | None) -> str:
    """Return the contents of `fields` for a study file, with dots for the unknown names."""
    options = options_setting(row)
    parts = [f"question: {question or '...'}", f"answer: {answer or '...'}"]
    return ", ".join(parts + ([f"options: {options}"] if options else []))


def _first(
    path: Path, rows: Sequence[Row], answer: str, options: str | tuple[str, ...]
) -> int | None:
    """Return the number of the first option, 0 or 1; None if no answer is a number.

    Raises QuestionError if the answers leave open which of the two it is.
    """
    numbers = []
    for row in rows:
        number = _number(row.get(answer))
        with contextlib.suppress(BadRow, KeyError):
            listed = options_of(row, options)
            if number is not None and listed.index(row[answer]) is None:
                numbers.append((number, len(listed.texts)))
    if not numbers:
        return None
    if any(number == 0 for number, _ in numbers):
        return 0
    if any(number == count for number, count in numbers):
        return 1
    raise QuestionError(
        f"{path}: the numbers in the field {answer} may count the options from 0 or from 1: no "
        "answer is 0 or the number of options. Write the study file by hand with fields.first "
        "(docs/config.md)"
    )


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if not isinstance(value, bool) and re.fullmatch(r"\d{1,3}", text) else None
