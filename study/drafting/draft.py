"""Choose the settings of a new study, each with its reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.planning.cost import ENOUGH_GENERATIONS
from study.search.sampler import default_population
from study.setup.tasks import MIN_HELD_OUT

from .models import Family
from .questions import QuestionFile

_BLOCKS = 8
"""The maximum number of blocks of layers in a search by CMA-ES, whose time grows with the square of
the number of parameters."""
_STEPS = 64
"""Steps of a search by gradient."""
_HELD_OUT, _MAX_HELD_OUT = 0.25, 0.5
"""The minimum and the maximum share of the questions that are held out."""
_ENOUGH_HELD_OUT = 1_000
"""The number of held-out questions above which the share stays at the minimum."""
_LONG_SEARCH = 1_000
"""Trials of a search that is long enough for the larger default population."""


@dataclass(frozen=True)
class Choice:
    """A setting and the reason for it."""

    value: Any
    reason: str = ""


@dataclass(frozen=True)
class Models:
    """The models of a new study, as they are written to its file."""

    models: tuple[str, ...]
    base: str | None
    base_reason: str = ""


@dataclass(frozen=True)
class Draft:
    """The settings of a new study: for each section its keys, in the order of the file."""

    genome: dict[str, Choice]
    tasks: list[dict[str, Choice]]
    study: dict[str, Choice]
    search: dict[str, Choice]


def method_of(base: str | None) -> Choice:
    """Return the merge method, which depends on whether there is a base model."""
    if base is not None:
        return Choice("dare_ties", "keeps a random part of each model's difference from the base")
    return Choice("linear", "needs no base model; with --base the method would be dare_ties")


def draft(
    name: str,
    models: Models,
    family: Family,
    files: Sequence[QuestionFile],
    folder: Path,
    no_gradient: str | None = None,
) -> Draft:
    """Return the settings of a new study whose file is in `folder`.

    `no_gradient` is the reason why a search by gradient is impossible even if it fits in memory.
    """
    genome = {"models": Choice(list(models.models))}
    if models.base is not None:
        genome["base_model"] = Choice(models.base, models.base_reason)
    genome["merge_method"] = method_of(models.base)
    search: dict[str, Choice] = {}
    if family.gradient_fits and no_gradient is None:
        fine = "one layer per block; a search by gradient can optimize so many parameters"
        genome["layer_granularity"] = Choice(1, fine)
        if family.filters:
            separate = "attention, MLP and the other tensors have separate parameters"
            genome["filters"] = Choice(list(family.filters), separate)
        reason = "needs fewer questions than CMA-ES, and a step fits in memory"
        search = {"algorithm": Choice("gradient", reason), "steps": Choice(_STEPS)}
        trials = Choice(_STEPS, "one trial per step")
    else:
        granularity = _granularity(family.layers)
        blocks = family.layers // granularity
        genome["layer_granularity"] = Choice(granularity, f"{blocks} blocks of layers")
        trials = _trials(blocks * len(models.models) * (1 if models.base is None else 2))
        reason = no_gradient or "a step of a search by gradient does not fit in memory"
        search = {"algorithm": Choice("cmaes", reason)}
    reference = "first model" if models.base is None else "base model"
    if family.chat_model not in (None, "base"):
        reason = f"its tokenizer has a chat template, but that of the {reference} has none"
        genome["tokenizer_source"] = Choice(family.chat_model, reason)
    if family.positions_differ:
        reason = (
            f"the models differ in rope or sliding window; the merge has those of the {reference}"
        )
        genome["config_source"] = Choice("base", reason)
    return Draft(
        genome,
        [_task(file, name, len(files), family, folder) for file, name in _named(files)],
        {"name": Choice(name), "trials": trials, "held_out": _held_out(files)},
        search,
    )


def _granularity(layers: int) -> int:
    """Return the smallest number of layers per block that gives at most 8 blocks."""
    return next(n for n in range(1, layers + 1) if layers % n == 0 and layers // n <= _BLOCKS)


def _trials(parameters: int) -> Choice:
    trials = ENOUGH_GENERATIONS * default_population(parameters, _LONG_SEARCH)
    return Choice(trials, f"{ENOUGH_GENERATIONS} generations for {parameters} parameters")


def _held_out(files: Sequence[QuestionFile]) -> Choice:
    """Return the share of the questions that is held out for the verdict."""
    total, least = sum(file.count for file in files), min(file.count for file in files)
    wanted = max(_ENOUGH_HELD_OUT / total, 1.2 * MIN_HELD_OUT / least, _HELD_OUT)
    share = min(_MAX_HELD_OUT, math.ceil(20 * wanted) / 20)
    reason = f"about {round(share * total):,} of {total:,} questions are kept for the verdict"
    if share * least < MIN_HELD_OUT:
        reason += f"; each task needs {MIN_HELD_OUT} of these, so add questions"
    return Choice(share, reason)


def _named(files: Sequence[QuestionFile]) -> list[tuple[QuestionFile, str]]:
    """Return each file with the name of its task, which no other task has."""
    taken: set[str] = set()
    pairs = []
    for file in files:
        name, number = file.name, 1
        while name in taken:
            number += 1
            name = f"{file.name}_{number}"
        taken.add(name)
        pairs.append((file, name))
    return pairs


def _task(
    file: QuestionFile, name: str, count: int, family: Family, folder: Path
) -> dict[str, Choice]:
    task = {
        "name": Choice(name),
        "weight": Choice(round(1 / count, 3), "share of the score" if count > 1 else ""),
        "kind": Choice(file.kind, f"{file.count:,} questions; the labels are {file.labels}"),
        "data": Choice(relative(file.path, folder)),
        "prompt": _prompt(file.kind, family),
    }
    if file.fields is not None:
        question = file.fields.question
        fields: dict[str, Any] = {"question": question[0] if len(question) == 1 else list(question)}
        if file.fields.options is not None:
            options = file.fields.options
            fields["options"] = options if isinstance(options, str) else list(options)
        if file.fields.first is not None:
            fields["first"] = file.fields.first
        task["fields"] = Choice(fields | {"answer": file.fields.answer}, "found by their names")
    if file.on_bad == "skip":
        task["on_bad"] = Choice("skip", f"{file.left_out:,} invalid or repeated rows are left out")
    return task


def _prompt(kind: str, family: Family) -> Choice:
    if not family.reads_text:
        return Choice("plain", "the tokenizer has no tokens for an instruction in English")
    chat = "the question and a sentence that says how to answer, in the models' chat template"
    plain = "the question and a sentence that says how to answer; there is no chat template"
    return Choice(f"{kind}_instruct", plain if family.chat_model is None else chat)


def relative(path: Path, folder: Path) -> str:
    """Return the path relative to the study file's folder, or absolute if it is not inside it."""
    absolute = path.resolve()
    parent = folder.resolve()
    return str(absolute.relative_to(parent) if absolute.is_relative_to(parent) else absolute)
