"""What the sections of a study file have in common: frozen, and unknown keys are errors."""

import contextlib
import difflib
import math
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not a truth value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML 1.1 reads 1e-5 as a text
    if not isinstance(value, bool | int | float):
        raise ValueError("must be a number, or true or false")
    return value


MOST_TOKENS = 2**24
"""More than any model's context; a batch of them takes hundreds of gigabytes."""

Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Plain = Annotated[float | int | bool, BeforeValidator(_plain)]
Text = Annotated[str, Field(min_length=1)]
Bound = Annotated[float, BeforeValidator(_number), Field(ge=-100, le=100, allow_inf_nan=False)]


class Section(BaseModel):
    """A mapping of the file: frozen, and a key it does not know is an error with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [f"{key}: {cls.unknown(str(key), known)}" for key in data if key not in known]
        if unknown:
            raise ValueError("\n".join(unknown))
        return data

    @classmethod
    def unknown(cls, key: str, known: list[str]) -> str:
        """What is said of an unknown key."""
        return f"unknown key{closest(key, known) or '; ' + one_of(known)}"


def closest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(known: Iterable[str]) -> str:
    return "known are " + ", ".join(known)
