"""Format the text of a new study file, and the reasons for its settings."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .draft import Choice, Draft

_HEAD = """\
# A study of a model merge, written by `python -m study.init`. docs/config.md describes every key.
# Check the prompt and the models' answers that `init` printed, then run the study.
"""
_COMMENT_COLUMN = 44
_LONG = 60
"""The length in characters above which a list is written with one item per line."""


def study_text(draft: Draft) -> str:
    """Return the text of the study file."""
    lines = [_HEAD, *_section("genome", draft.genome), "", "tasks:"]
    for task in draft.tasks:
        first, *rest = _entries(task, "    ")
        lines += [f"  - {first.strip()}", *rest]
    lines += ["", *_section("study", draft.study), "", *_section("search", draft.search)]
    return "\n".join(lines) + "\n"


def reasons(draft: Draft) -> list[str]:
    """Return a line for each setting that has a reason."""
    sections = [("genome", draft.genome)]
    sections += [(f"tasks.{task['name'].value}", task) for task in draft.tasks]
    sections += [("study", draft.study), ("search", draft.search)]
    return [
        f"  {section}.{key}: {_scalar(choice.value)} ({choice.reason})"
        for section, choices in sections
        for key, choice in choices.items()
        if choice.reason
    ]


def _section(name: str, choices: Mapping[str, Choice]) -> list[str]:
    return [f"{name}:", *_entries(choices, "  ")]


def _entries(choices: Mapping[str, Choice], indent: str) -> Iterator[str]:
    for key, choice in choices.items():
        if isinstance(choice.value, list) and len(_scalar(choice.value)) > _LONG:
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_scalar(item)}" for item in choice.value)
            continue
        line = f"{indent}{key}: {_scalar(choice.value)}"
        yield f"{line:<{_COMMENT_COLUMN}}  # {choice.reason}" if choice.reason else line


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
