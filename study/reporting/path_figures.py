"""The report's figures of a path of layers.

Each function returns a figure, or None if there is nothing to draw.
"""

from matplotlib.figure import Figure

from .data import ReportData
from .style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    WIDTH,
    cycled,
    legend_below,
    new_figure,
    short,
    whole_numbers,
)


def path(data: ReportData) -> Figure | None:
    """Draw the layers of the path in their order, coloured by model, and their scales."""
    if data.path is None:
        return None
    hops, scaled = data.path.hops, data.path.scaled
    figure = Figure(figsize=(WIDTH, 4.6 if scaled else 3.6), layout="constrained")
    figure.suptitle(f"Path of trial {data.path.trial}", x=0.01, ha="left")
    panels = figure.subplots(
        1 + scaled, squeeze=False, sharex=True, height_ratios=[3, 1] if scaled else [1]
    )[:, 0]
    layers = panels[0]
    layers.plot(range(len(hops)), [hop.layer for hop in hops], color=GREY, linewidth=0.8, zorder=1)
    models = data.path.models
    for model, colour in zip(models, cycled(len(models)), strict=True):
        own = [i for i, hop in enumerate(hops) if hop.model == model]
        layers.scatter(
            own,
            [hops[i].layer for i in own],
            s=26,
            color=colour,
            label=short(model),
            zorder=2,
            linewidths=0,
        )
    layers.set_ylabel("layer of its model")
    if scaled:
        colours = dict(zip(models, cycled(len(models)), strict=True))
        panels[1].bar(
            range(len(hops)),
            [hop.scale - 1.0 for hop in hops],
            bottom=1.0,
            color=[colours[hop.model] for hop in hops],
        )
        panels[1].axhline(1.0, color=INK, linewidth=0.8)
        panels[1].set_ylabel("scale")
    whole_numbers(panels[-1], "position in the path")
    legend_below(layers, min(3, len(models)))
    return figure


def depth(data: ReportData) -> Figure | None:
    """Draw the score of each search trial against the number of layers of its path."""
    if data.path is None or not data.path.scores:
        return None
    figure, axes = new_figure("Score against the length of the path")
    scores = data.path.scores
    axes.scatter(
        [s.layers for s in scores], [s.score for s in scores], s=12, color=BLUE, linewidths=0
    )
    level = data.scores.levels().get("best parent")
    if level is not None:
        axes.axhline(level, color=ORANGE, linewidth=1.4, label="best parent")
        legend_below(axes, 1)
    axes.set_ylabel("score on the search questions")
    whole_numbers(axes, "layers")
    return figure
