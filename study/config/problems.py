"""Format pydantic's errors about a study file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from objectives.crash_report import without_secrets

from .genome import LAYERS, WEIGHTS

_MAX_VALUE_LENGTH = 40
_INVALID_TAG = "union_tag_invalid"
"""The error of a section that has several kinds."""
_MESSAGES = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "path_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "too_long": "must have at most {max_length} entries",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
}
_WITHOUT_VALUE = ("missing", "string_too_short", "too_long")
_REASONS = {
    "trials": "all trials of a study are read together",
    "population": "the first step of the search needs a whole generation",
    "batch_tokens": "a batch must fit in memory",
    "max_tokens": "no model has longer answers",
}
"""The reasons for upper bounds, by the last part of the key."""


def message(path: Path, data: Mapping[str, Any], error: ValidationError) -> str:
    """Return a line for each problem of the file at `path`, whose contents are `data`."""
    lines = []
    for problem in error.errors():
        key = _key(problem["loc"], data)
        for line in _text(problem).split("\n"):
            names_key = problem["type"] in ("value_error", _INVALID_TAG)
            joint = "." if key and ": " in line and names_key else ": "
            lines.append(f"{key}{joint}{line}" if key else line)
    if len(lines) == 1:
        return f"{path}: {lines[0]}"
    return f"{path} is not a valid study:\n" + "\n".join(f"  {line}" for line in lines)


def _text(problem: Any) -> str:
    kind = problem["type"]
    if kind == _INVALID_TAG:
        kinds = problem["ctx"]["expected_tags"].replace("'", "").replace(",", " or")
        return f"kind: must be {kinds}, not {_display(problem['ctx']['tag'])}"
    if kind not in _MESSAGES:
        return str(problem["msg"]).removeprefix("Value error, ")
    bounds = {name: _plain(bound) for name, bound in problem.get("ctx", {}).items()}
    must = _MESSAGES[kind].format(**bounds)
    value = "" if kind in _WITHOUT_VALUE else f", not {_display(problem['input'])}"
    reason = _REASONS.get(str(problem["loc"][-1])) if kind == "less_than_equal" else None
    return f"{must}{value}" + (f": {reason}" if reason else "")


def _plain(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _display(value: Any) -> str:
    """Return a value as JSON, shortened and without secrets."""
    text = without_secrets(json.dumps(value, ensure_ascii=False, default=str), {})
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def _key(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """Return the path of a key, with the name of a task instead of its index."""
    if loc[1:2] in ((WEIGHTS,), (LAYERS,)) and loc[0] == "genome":
        loc = (loc[0], *loc[2:])  # without the kind of genome
    parts = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "tasks" and isinstance(loc[1], int):
        task = data["tasks"][loc[1]]
        if isinstance(task, dict) and isinstance(task.get("name"), str):
            parts[1] = task["name"]
    return ".".join(parts)
