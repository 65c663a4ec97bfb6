"""Read the rows of a question file: JSONL, a JSON list, or a single JSON object."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.errors import QuestionError
from objectives.files.text_files import UnreadableFile, read_text

MAX_BYTES = 64 << 20
MAX_ROW = 4 << 20
"""The maximum number of characters of a row."""
MAX_ROWS = 200_000

_LINE = re.compile(r"\S[^\n]*")
_SPACE = re.compile(r"[ \t\n\r]*")
_FORMATS = "a question file is JSONL, with a row on each line, or one JSON list"


@dataclass(frozen=True)
class RepeatedKey:
    """The value of a JSON object in which a key is repeated."""

    key: str


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the position of each row (FILE:LINE) and its JSON value. Raises QuestionError."""
    try:
        text = read_text(path, MAX_BYTES)
    except FileNotFoundError:
        raise QuestionError(f"{path} does not exist") from None
    except UnreadableFile as error:
        raise QuestionError(str(error)) from None
    start = _start(text)
    rows = _list_rows(path, text, start) if text.startswith("[", start) else _lines(path, text)
    for number, (location, row) in enumerate(rows, 1):
        if number > MAX_ROWS:
            raise QuestionError(f"{location}: more than {MAX_ROWS:,} rows; use a part of the file")
        yield location, row


def _start(text: str, position: int = 0) -> int:
    """Return the index of the next character that is not white space."""
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _object(pairs: list[tuple[str, Any]]) -> Any:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    keys = [key for key, _ in pairs]
    return RepeatedKey(next(key for key, count in Counter(keys).items() if count > 1))


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    number, last = 1, 0
    for count, match in enumerate(_LINE.finditer(text)):
        number += text.count("\n", last, match.start())
        last = match.start()
        location = f"{path}:{number}"
        try:
            yield location, _value(location, match[0].strip("\ufeff \t\r"))
        except QuestionError:
            whole = _whole(text) if count == 0 else None
            if whole is None:
                raise
            yield location, whole
            return


def _whole(text: str) -> Any:
    """Return the JSON object that is the whole file, over several lines; None if there is none."""
    if len(text) > MAX_ROW or not text.startswith("{", _start(text)):
        return None
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _value(location: str, line: str) -> Any:
    if len(line) > MAX_ROW:
        raise QuestionError(_too_long(location, len(line)))
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        hint = "" if line.startswith(("{", "[")) else f"; {_FORMATS}, not CSV or another format"
        raise QuestionError(
            f"{location}: not JSON: {error.msg}, column {error.colno}{hint}"
        ) from None
    except ValueError as error:
        raise QuestionError(f"{location}: not JSON: {error}") from None
    except RecursionError:
        raise QuestionError(f"{location}: not a question: the JSON is nested too deeply") from None


def _too_long(location: str, size: int) -> str:
    return f"{location}: the row has {size:,} characters, more than {MAX_ROW:,}; {_FORMATS}"


def _list_rows(path: Path, text: str, start: int) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a list, each decoded from a window of the text, in bounded memory."""
    position, line, counted = _start(text, start + 1), 1, 0
    window, base, number = "", 0, 0
    closed = text.startswith("]", position)
    while not closed:
        number += 1
        line += text.count("\n", counted, position)
        counted = position
        if not window or position - base > MAX_ROW:
            base, window = position, text[position : position + 2 * MAX_ROW]
        location = f"{path}:{line}, row {number}"
        row, end = _decoded(location, window, position - base, base + len(window) < len(text))
        if base + end - position > MAX_ROW:
            raise QuestionError(_too_long(location, base + end - position))
        yield location, row
        position = _start(text, base + end)
        closed = text.startswith("]", position)
        if not closed and not text.startswith(",", position):
            raise QuestionError(f"{location}: not JSON: the row is not followed by a comma or ]")
        if not closed:
            position = _start(text, position + 1)
    rest = _start(text, position + 1)
    if rest < len(text):
        line = 1 + text.count("\n", 0, rest)
        raise QuestionError(f"{path}:{line}: not JSON: text after the list; {_FORMATS}")


def _decoded(location: str, window: str, position: int, cut: bool) -> tuple[Any, int]:
    """Return a value and the index of its end. With `cut`, more text follows the window."""
    try:
        return _DECODER.raw_decode(window, position)
    except json.JSONDecodeError as error:
        unfinished = error.msg.startswith("Unterminated") or error.pos > len(window) - 16
        if cut and unfinished:
            raise QuestionError(_too_long(location, len(window) - position)) from None
        line = window.count("\n", position, error.pos)
        where = f", {line} lines on" if line else ""
        raise QuestionError(f"{location}: not JSON: {error.msg}{where}") from None
    except ValueError as error:
        raise QuestionError(f"{location}: not JSON: {error}") from None
    except RecursionError:
        raise QuestionError(f"{location}: not a question: the JSON is nested too deeply") from None
