"""The report's figures of the search.

Each function returns a figure, or None if there is nothing to draw.
"""

import numpy as np
from matplotlib.figure import Figure

from .data import ReportData
from .style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    INK,
    MAX_LABELS,
    ORANGE,
    cycled,
    legend_below,
    new_figure,
    short,
    whole_numbers,
)

_LEVELS = {"best parent": ORANGE, "best uniform": GREEN}
"""Baselines to draw. The base is left out: it often scores far below all trials."""


def losses(data: ReportData) -> Figure | None:
    """Draw the losses of an ascent: of the batches, and of validation."""
    if data.ascents is None:
        return None
    figure, axes = new_figure("Loss of the search by gradient")
    for ascent, curve in data.ascents.ascents.items():
        name = f" of ascent {ascent}" if len(data.ascents.ascents) > 1 else ""
        colour = COLOURS[(ascent + 1) % len(COLOURS)] if name else ORANGE
        steps = range(len(curve.losses))
        axes.scatter(steps, curve.losses, s=10, color=GREY, linewidths=0)
        points = curve.checkpoints
        for values, label, style in (
            ([p.batch_loss for p in points], "batches, mean of the last steps", "--"),
            ([p.validation_loss for p in points], "validation questions", "-"),
        ):
            axes.plot(
                [p.steps for p in points],
                values,
                style,
                color=colour if style == "-" else BLUE,
                marker="o",
                markersize=3,
                label=label + name,
            )
    if data.ascents.best is not None:
        axes.axvline(data.ascents.best[1].steps, color=INK, linewidth=1, linestyle=":")
    whole_numbers(axes, "step")
    legend_below(axes, 1)
    return figure


def best_so_far(data: ReportData) -> Figure | None:
    """Draw every trial, the best score so far and the best parent and uniform merge."""
    history = data.scores
    if not history.values or data.ascents is not None:
        return None
    figure, axes = new_figure("Search score of each trial")
    numbers = range(1, len(history.values) + 1)
    axes.scatter(numbers, history.values, s=14, color=GREY, label="trial", linewidths=0)
    axes.step(numbers, history.best_so_far(), where="post", color=BLUE, label="best so far")
    for name, value in history.levels().items():
        if name in _LEVELS:
            axes.axhline(value, color=_LEVELS[name], linewidth=1, linestyle="--", label=name)
    whole_numbers(axes, "search trial")
    legend_below(axes, 3)
    return figure


def population(data: ReportData) -> Figure | None:
    """Draw the range and the mean of each generation's scores."""
    generations = data.scores.by_generation()
    if not generations or data.ascents is not None:
        return None
    figure, axes = new_figure("Search score of each generation")
    numbers = [g.generation for g in generations]
    axes.fill_between(
        numbers,
        [g.worst for g in generations],
        [g.best for g in generations],
        color=BLUE,
        alpha=0.15,
        label="worst to best",
        linewidth=0,
    )
    means = [g.mean for g in generations]
    axes.plot(numbers, means, color=BLUE, marker="o", markersize=3, label="mean")
    whole_numbers(axes, "generation")
    legend_below(axes, 2)
    return figure


def tasks(data: ReportData) -> Figure | None:
    """Draw the mean score of each task in each generation."""
    generations = data.scores.by_generation()
    if not generations:
        return None
    figure, axes = new_figure("Score of each task, mean of each generation")
    names = list(data.scores.tasks)
    for colour, task in zip(cycled(len(names)), names, strict=True):
        asked = [g for g in generations if task in g.tasks]
        axes.plot(
            [g.generation for g in asked],
            [g.tasks[task] for g in asked],
            color=colour,
            marker="o",
            markersize=3,
            label=short(task),
        )
    whole_numbers(axes, "generation")
    legend_below(axes, 2)
    return figure


def importance(data: ReportData) -> Figure | None:
    """Draw the most important parameters as a ranking."""
    if not data.importance:
        return None
    top = list(data.importance.items())[:MAX_LABELS]
    figure, axes = new_figure("Parameter importance (PED-ANOVA)", 0.9 + 0.3 * len(top))
    names, values = [short(name, 34) for name, _ in top], [value for _, value in top]
    axes.barh(range(len(top)), values[::-1], color=BLUE, height=0.65)
    axes.set_yticks(range(len(top)), names[::-1], fontsize=8.5)
    axes.set_xlabel("share in what distinguishes the best tenth of trials")
    return figure


def convergence(data: ReportData) -> Figure | None:
    """Draw the step size of the search and the way of its mean."""
    if len(data.convergence) < 2:
        return None
    generations = [d.generation for d in data.convergence]
    by_gradient = data.ascents is not None
    size, point = ("learning rate", "point") if by_gradient else ("step size (sigma)", "mean")
    title = "First ascent" if by_gradient else "CMA-ES" if data.path is None else "CatCMA"
    choices = "" if data.path is None else ", and probabilities of choices"
    figure, axes = new_figure(f"{title}, in shares of each range{choices}")
    lines = {
        size: [d.sigma for d in data.convergence],
        f"{point}: distance from the first {point}": [d.from_start for d in data.convergence],
        f"{point}: step from the previous {point}": [d.step for d in data.convergence],
    }
    for colour, (label, heights) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(generations, heights, color=colour, label=label, marker="o", markersize=3)
    axes.set_ylim(bottom=0)
    whole_numbers(axes, "step" if by_gradient else "generation")
    legend_below(axes, 2)
    return figure


def time(data: ReportData) -> Figure | None:
    """Draw the time that the parts of a trial take, as stacked bars."""
    medians = data.seconds.medians
    if not any(medians.values()):
        return None
    figure, axes = new_figure("Seconds of a search trial, median of each generation")
    bottom = np.zeros(max(map(len, medians.values())))
    for colour, (part, values) in zip(COLOURS, medians.items(), strict=False):
        axes.bar(range(len(values)), values, bottom=bottom, color=colour, label=part, width=0.8)
        bottom += np.array(values)
    whole_numbers(axes, "generation")
    legend_below(axes, 3)
    return figure
