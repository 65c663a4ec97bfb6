"""The report's figures of the verdict and of the final merge.

Each function returns a figure, or None if there is nothing to draw.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .data import ReportData
from .style import BLUE, GREY, INK, MAX_LABELS, WIDTH, legible_on, new_figure, short, wrapped


def held_out(data: ReportData) -> Figure | None:
    """Draw the held-out scores of the contenders, each with its own 95% interval."""
    scores = [
        (summary.name, summary.held_out.value, summary.held_out.margin)
        for summary in data.verdict.summaries
        if summary.held_out is not None and summary.held_out.value is not None
    ]
    if not scores:
        return None
    figure, axes = new_figure("Held-out score, 95% interval of each", 1.2 + 0.36 * len(scores))
    for y, (name, value, margin) in enumerate(reversed(scores)):
        colour = BLUE if data.verdict.is_final(name) else GREY
        axes.barh(y, value, color=colour, height=0.62)
        axes.errorbar(value, y, xerr=margin, color=INK, capsize=3, linewidth=1.2)
        axes.annotate(
            f" {value:.3f}", (value + margin, y), xytext=(4, 0), va="center", fontsize=9,
            textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(scores)), [wrapped(name, 22) for name, _, _ in reversed(scores)])
    low = min(0.0, *(value for _, value, _ in scores))
    high = max(0.01, *(value + margin for _, value, margin in scores))
    axes.set_xlim(1.15 * low, 1.14 * high)
    return figure


def differences(data: ReportData) -> Figure | None:
    """Draw the difference between the final merge and each reference, with its 95% interval."""
    pairs = data.verdict.against_final
    if not pairs:
        return None
    figure, axes = new_figure("Final merge minus each reference, points", 1.3 + 0.36 * len(pairs))
    for y, pair in enumerate(reversed(pairs)):
        colour = BLUE if pair.is_better else GREY
        difference, margin = 100 * pair.difference, 100 * pair.margin
        axes.errorbar(
            difference,
            y,
            xerr=margin,
            fmt="o",
            color=colour,
            capsize=4,
            linewidth=1.8,
            markersize=6,
        )
        axes.annotate(
            f"{difference:+.1f} ± {margin:.1f}", (difference, y), xytext=(0, 7), ha="center",
            textcoords="offset points", fontsize=8.5,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(pairs)), [wrapped(p.reference, 22) for p in reversed(pairs)])
    axes.set_ylim(-0.6, len(pairs) - 0.2)
    return figure


def merge(data: ReportData) -> Figure | None:
    """Draw a heat map of each parameter of the merge, and of each filter if there are several: a
    row for each model, a column for each block."""
    merge = data.merge
    if merge is None or not merge.values:
        return None
    filters: dict[str, list[int]] = {}
    for x, column in enumerate(merge.columns):
        filters.setdefault(column.partition(" ")[2], []).append(x)
    maps = [(parameter, name) for parameter in merge.values for name in filters]
    count, rows = len(maps), len(merge.models)
    figure = Figure(figsize=(WIDTH, count * (1.15 + 0.42 * rows)), layout="constrained")
    panels = figure.subplots(count, squeeze=False)[:, 0]
    names = [wrapped(model, 16) for model in merge.models]
    for axes, (parameter, name) in zip(panels, maps, strict=True):
        table = np.array(merge.values[parameter])
        values = table[:, filters[name]]
        low, high = min(0.0, float(table.min())), max(1.0, float(table.max()))
        signed = low < 0
        limits = (-max(-low, high), max(-low, high)) if signed else (0.0, high)
        image = axes.imshow(
            values,
            aspect="auto",
            cmap="RdBu_r" if signed else "Blues",
            vmin=limits[0],
            vmax=limits[1],
        )
        part = f" of {short(name, 24)}" if name else ""
        title = f"{parameter.capitalize()}{part}, merge of trial {merge.trial}"
        axes.set_title(title, fontsize=10.5, fontweight="bold")
        axes.set_yticks(range(rows), names, fontsize=8.5)
        _label_columns(axes, [merge.columns[x].partition(" ")[0] for x in filters[name]])
        axes.spines[:].set_visible(False)
        if values.shape[1] <= MAX_LABELS:
            for (y, x), value in np.ndenumerate(values):
                colour = legible_on(image.to_rgba(value))
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        else:
            figure.colorbar(image, ax=axes)
    return figure


def _label_columns(axes: Axes, columns: Sequence[str]) -> None:
    """Label up to MAX_LABELS columns of a heat map; rotate the labels if they are too wide."""
    step = math.ceil(len(columns) / MAX_LABELS)
    labelled = range(0, len(columns), step)
    labels = [short(columns[x].removeprefix("layers.").removeprefix("knot.")) for x in labelled]
    rotated = max(map(len, labels)) * len(labels) > 56
    axes.set_xticks(labelled, labels, fontsize=8.5, rotation=90 if rotated else 0)
    axes.set_xlabel("knot" if columns[0].startswith("knot.") else "layers")
    axes.tick_params(length=0)
