"""Figures of how a search went. Each function takes findings and gives a figure, or None where
there is nothing to draw."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    MANY,
    ORANGE,
    Found,
    legend_below,
    sheet,
    short,
    whole_numbers,
)


def best_so_far(found: Found) -> Figure | None:
    scores = found["scores"]
    if not scores["values"]:
        return None
    figure, axes = sheet("Search score, trial by trial")
    numbers = np.arange(1, len(scores["values"]) + 1)
    axes.scatter(numbers, scores["values"], s=14, color=GREY, label="trial", linewidths=0)
    best = np.maximum.accumulate(scores["values"])
    axes.step(numbers, best, where="post", color=BLUE, label="best so far")
    for label, value, colour in _levels(scores["baselines"]):
        axes.axhline(value, color=colour, linewidth=1, linestyle="--", label=label)
    axes.set_xlabel("search trial")
    legend_below(axes, 3)
    return figure


def _levels(baselines: Mapping[str, float]) -> list[tuple[str, float, str]]:
    parents = [v for name, v in baselines.items() if name.startswith("parent ")]
    uniform = [v for name, v in baselines.items() if name.startswith("uniform ")]
    levels = [("best parent", parents, ORANGE), ("best uniform", uniform, GREEN)]
    return [(label, max(values), colour) for label, values, colour in levels if values]


def population(found: Found) -> Figure | None:
    scores = found["scores"]
    if not scores["values"]:
        return None
    figure, axes = sheet("Population of each generation, search score")
    groups = _by_generation(scores["generations"], scores["values"])
    generations = list(groups)
    axes.fill_between(
        generations,
        [min(values) for values in groups.values()],
        [max(values) for values in groups.values()],
        color=BLUE,
        alpha=0.15,
        label="worst to best",
        linewidth=0,
    )
    means = [float(np.mean(values)) for values in groups.values()]
    axes.plot(generations, means, color=BLUE, marker="o", markersize=3, label="mean")
    whole_numbers(axes, "generation")
    legend_below(axes, 2)
    return figure


def tasks(found: Found) -> Figure | None:
    scores = found["scores"]
    if not scores["values"]:
        return None
    figure, axes = sheet("Tasks, mean of each generation")
    for colour, (task, values) in zip(
        _cycle(len(scores["tasks"])), scores["tasks"].items(), strict=True
    ):
        groups = _by_generation(scores["generations"], values)
        means = [float(np.mean(values)) for values in groups.values()]
        axes.plot(list(groups), means, color=colour, marker="o", markersize=3, label=short(task))
    whole_numbers(axes, "generation")
    legend_below(axes, 2)
    return figure


def importance(found: Found) -> Figure | None:
    if not found["importance"]:
        return None
    top = list(found["importance"].items())[:MANY]
    figure, axes = sheet("Parameter importance (PED-ANOVA)", 0.9 + 0.3 * len(top))
    names, values = [short(name, 34) for name, _ in top], [value for _, value in top]
    axes.barh(range(len(top)), values[::-1], color=BLUE, height=0.65)
    axes.set_yticks(range(len(top)), names[::-1], fontsize=8.5)
    axes.set_xlabel("share of what sets the best tenth of the trials apart")
    return figure


def convergence(found: Found) -> Figure | None:
    steps = found["convergence"]
    if len(steps) < 2:
        return None
    figure, axes = sheet("CMA-ES, in shares of each range")
    generations = [step["generation"] for step in steps]
    for colour, (key, label) in zip(
        COLOURS,
        {
            "sigma": "step size (sigma)",
            "from_start": "mean: distance from the start",
            "step": "mean: moved since the last",
        }.items(),
        strict=False,
    ):
        heights = [step[key] for step in steps]
        axes.plot(generations, heights, color=colour, label=label, marker="o", markersize=3)
    axes.set_ylim(bottom=0)
    whole_numbers(axes, "generation")
    legend_below(axes, 2)
    return figure


def time(found: Found) -> Figure | None:
    medians = found["seconds"]["medians"]
    if not medians["score"]:
        return None
    figure, axes = sheet("Seconds of a search trial, median of each generation")
    bottom = np.zeros(len(medians["score"]))
    for colour, (part, values) in zip(COLOURS, medians.items(), strict=False):
        axes.bar(range(len(values)), values, bottom=bottom, color=colour, label=part, width=0.8)
        bottom += np.array(values)
    whole_numbers(axes, "generation")
    legend_below(axes, 3)
    return figure


def _by_generation(
    generations: Sequence[int], values: Sequence[float | None]
) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = {}
    for generation, value in zip(generations, values, strict=True):
        if value is not None:
            groups.setdefault(generation, []).append(value)
    return groups


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
