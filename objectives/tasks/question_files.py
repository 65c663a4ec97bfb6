"""Question files in, questions out: JSONL or a JSON list, in the fields of KDD Cup 2024.

Files in the wild differ: labels are ints, strings or lists; options count from 0 or from 1;
prompts end in "Answer:", "Output:", another cue, or nothing.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from objectives.errors import QuestionError

from .task import Question

log = logging.getLogger(__name__)

OnBad = Literal["refuse", "skip"]
Row = dict[str, Any]

_CUE = re.compile(r"(?:\n[ \t]*(\w[\w ]{0,30}?)|\s(Answer|Output))[ \t]*:\s*$", re.IGNORECASE)
_OPTION = re.compile(r"^[ \t]*(\d{1,2})[ \t]*[.):][ \t]*\S", re.MULTILINE)
_SCALE = re.compile(r"\b(\d)\s*(?:-|–|to|and)\s*(\d)\b")
_KINDS = {
    "multiple-choice": "multiple_choice",
    "multiple choice": "multiple_choice",
    "multiple_choice": "multiple_choice",
    "retrieval": "retrieval",
    "ranking": "ranking",
    "generation": "generation",
    "named_entity_recognition": "named_entity_recognition",
}


class BadRow(Exception):
    """Why one row is no question."""


def read_questions(
    path: Path, kind: str, parse: Callable[[Row], Question], on_bad: OnBad = "refuse"
) -> tuple[Question, ...]:
    """Every question of a file, ordered by id, so that the order of rows does not matter.

    Exact duplicates are dropped with a count; a question with two different labels, and any row
    that `parse` refuses, raises QuestionError, or with on_bad "skip" is left out with a count.
    """
    found: dict[str, tuple[str, Question]] = {}
    bad: list[str] = []
    torn: set[str] = set()
    repeated = 0
    for place, row in _rows(path):
        try:
            if not isinstance(row, dict):
                raise BadRow("is not an object with input_field and output_field")
            _check_kind(row, kind)
            question = parse(row)
        except BadRow as error:
            bad.append(f"{place}: {error}")
            continue
        first, known = found.setdefault(question.text, (place, question))
        if known.labels != question.labels:
            bad.append(f"{place}: the same question as {first} with another label")
            torn.add(question.text)
        elif first != place:
            repeated += 1
    if bad and on_bad == "refuse":
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise QuestionError(f"{bad[0]}{more}; mend it, or set on_bad: skip")
    if bad:
        log.warning("%s: %d bad rows left out, first %s", path.name, len(bad), bad[0])
    if repeated:
        log.info("%s: %d exact duplicates dropped", path.name, repeated)
    questions = [question for text, (_, question) in found.items() if text not in torn]
    if not questions:
        raise QuestionError(f"{path} has no questions")
    return tuple(sorted(questions, key=lambda q: q.id))


def question_of(row: Row, labels: Callable[[Any], tuple[int, ...]]) -> Question:
    """The question of a row; `labels` reads its output_field. Raises BadRow."""
    text = row.get("input_field", "")
    if text is not None and not isinstance(text, str):
        raise BadRow(f"input_field is {text!r}, and must be a text")
    if text is None or not text.strip():
        raise BadRow("input_field is empty")
    if row.get("output_field") in (None, "", []):
        raise BadRow("output_field is empty")
    body, cue = split_cue(text)
    question = Question(body, cue, labels(row["output_field"]), options_in(body))
    outside = [label for label in question.labels if label not in question.options]
    if outside:
        low, high = question.options[0], question.options[-1]
        raise BadRow(f"label {outside[0]} is not among the options {low} to {high}")
    return question


def split_cue(text: str) -> tuple[str, str]:
    """The question, and the word before a final colon on a line of its own, if there is one."""
    match = _CUE.search(text)
    if match is None:
        return text.strip(), ""
    return text[: match.start()].strip(), (match[1] or match[2]).strip()


def options_in(text: str) -> tuple[int, ...]:
    """The numbers of the last numbered list, else those of a scale ("1 to 5"), else 0 to 3."""
    numbers = [int(match[1]) for match in _OPTION.finditer(text)]
    start = len(numbers) - 1
    while start > 0 and numbers[start - 1] == numbers[start] - 1:
        start -= 1
    if len(numbers) - start >= 2:
        return tuple(numbers[start:])
    scales = [(int(m[1]), int(m[2])) for m in _SCALE.finditer(text)]
    low, high = next(((a, b) for a, b in scales if a in (0, 1) and b > 1), (0, 3))
    return tuple(range(low, high + 1))


def _check_kind(row: Row, kind: str) -> None:
    stated = row.get("task_type")
    known = _KINDS.get(stated.strip().lower()) if isinstance(stated, str) else None
    if known not in (None, kind):
        raise BadRow(f"task_type is {stated}, the task is of kind {kind}")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QuestionError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"cannot read {path}: {error}") from None
    if text.lstrip().startswith("["):
        yield from _json_list(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                yield place, json.loads(line)
            except ValueError as error:
                raise QuestionError(f"{place}: not JSON: {error}") from None


def _json_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise QuestionError(f"{path}: not JSON: {error}") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row
