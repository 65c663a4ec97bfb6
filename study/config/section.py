"""The base class of the sections of a study file, and the types of their values."""

import contextlib
import difflib
import math
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML 1.1 reads 1e-5 as text
    if not isinstance(value, bool | int | float):
        raise ValueError("must be a number, or true or false")
    return value


MAX_TOKENS = 2**24
"""More than the context of any model."""

Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_number)]
Plain = Annotated[float | int | bool, BeforeValidator(_plain)]
Text = Annotated[str, Field(min_length=1)]
Bound = Annotated[float, BeforeValidator(_number), Field(ge=-100, le=100, allow_inf_nan=False)]


MAX_NAME_LENGTH = 255
"""Bytes of a study's name: the limit of file systems."""


class Section(BaseModel):
    """A frozen mapping of the file; an unknown key is an error with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [f"{key}: {cls.unknown_key(str(key), names)}" for key in data if key not in names]
        if unknown:
            raise ValueError("\n".join(unknown))
        return data

    @classmethod
    def unknown_key(cls, key: str, names: list[str]) -> str:
        """Return the message for an unknown key."""
        return f"unknown key{closest(key, names) or '; ' + one_of(names)}"


def closest(word: str, names: Iterable[str]) -> str:
    """Return a hint to the most similar name, or nothing if none is similar."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(names: Iterable[str]) -> str:
    """Return that a value must be one of these names."""
    return "must be one of " + ", ".join(names)


def name_error(name: str) -> str | None:
    """Return why a study cannot have this name, or None if it can."""
    if name in (".", ".."):
        return f"{name!r} is reserved by the file system; choose another name"
    if not name or not all(map(_is_allowed, name)):
        return f"{name[:60]!r} must consist of letters, digits and the characters . _ + -"
    if len(name.encode()) > MAX_NAME_LENGTH:
        return f"{name[:20]}... is longer than {MAX_NAME_LENGTH} bytes; choose a shorter name"
    return None


def _is_allowed(character: str) -> bool:
    category = unicodedata.category(character)
    return character in ".+-" or category[0] in "LMN" or category == "Pc"
