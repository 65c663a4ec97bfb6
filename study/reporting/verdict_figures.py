"""Figures of the verdict and of the merge it is about. Each function takes findings and gives a
figure, or None where there is nothing to draw."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, GREY, INK, MANY, WIDTH, Found, sheet, short, wrapped


def held_out(found: Found) -> Figure | None:
    """Bars with 95% intervals, each for itself."""
    candidates = found["verdict"]["candidates"]
    scored = [c for c in candidates if c["held_out"] and c["held_out"]["value"] is not None]
    if not scored:
        return None
    figure, axes = sheet("Held-out score, 95% interval of each", 1.2 + 0.36 * len(scored))
    final = (found["verdict"]["final"] or {}).get("name")
    for y, candidate in enumerate(reversed(scored)):
        held_out = candidate["held_out"]
        error = 1.96 * (held_out["error"] or 0.0)
        colour = BLUE if candidate["name"] == final else GREY
        axes.barh(y, held_out["value"], color=colour, height=0.62)
        axes.errorbar(held_out["value"], y, xerr=error, color=INK, capsize=3, linewidth=1.2)
        end = held_out["value"] + error
        axes.annotate(
            f" {held_out['value']:.3f}", (end, y), xytext=(4, 0), va="center", fontsize=9,
            textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(scored)), [wrapped(c["name"], 22) for c in reversed(scored)])
    ends = [c["held_out"]["value"] + 1.96 * (c["held_out"]["error"] or 0.0) for c in scored]
    low = min(0.0, *(c["held_out"]["value"] for c in scored))
    axes.set_xlim(1.15 * low, max(0.01, *ends) * 1.14)
    return figure


def differences(found: Found) -> Figure | None:
    """The final merge against each reference, with the verdict's own intervals."""
    verdict = found["verdict"]
    final = (verdict["final"] or {}).get("name")
    pairs = [c for c in verdict["comparisons"] if c["candidate"] == final]
    if not pairs:
        return None
    figure, axes = sheet("Final merge minus each reference, points", 1.3 + 0.36 * len(pairs))
    for y, pair in enumerate(reversed(pairs)):
        colour = BLUE if pair["shown"] else GREY
        difference, margin = 100 * pair["difference"], 100 * pair["margin"]
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
    axes.set_yticks(range(len(pairs)), [wrapped(p["reference"], 22) for p in reversed(pairs)])
    axes.set_ylim(-0.6, len(pairs) - 0.2)
    return figure


def merge(found: Found) -> Figure | None:
    """One heat map a parameter: a row a model, a column a block."""
    merge = found["merge"]
    if merge is None:
        return None
    count, rows = len(merge["values"]), len(merge["models"])
    figure = Figure(figsize=(WIDTH, count * (1.15 + 0.42 * rows)), layout="constrained")
    panels = figure.subplots(count, squeeze=False)[:, 0]
    names = [wrapped(model, 16) for model in merge["models"]]
    for axes, (parameter, values) in zip(panels, merge["values"].items(), strict=True):
        values = np.array(values)
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
        signed = low < 0
        limits = (-max(-low, high), max(-low, high)) if signed else (0.0, high)
        image = axes.imshow(
            values,
            aspect="auto",
            cmap="RdBu_r" if signed else "Blues",
            vmin=limits[0],
            vmax=limits[1],
        )
        title = f"{parameter.capitalize()}, merge of trial {merge['trial']}"
        axes.set_title(title, fontsize=10.5, fontweight="bold")
        axes.set_yticks(range(rows), names, fontsize=8.5)
        _columns(axes, merge["columns"])
        axes.spines[:].set_visible(False)
        if values.shape[1] <= MANY:
            for (y, x), value in np.ndenumerate(values):
                dark = (abs(value) if signed else value) > 0.6 * limits[1]
                colour = "white" if dark else INK
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        else:
            figure.colorbar(image, ax=axes)
    return figure


def _columns(axes: Axes, columns: Sequence[str]) -> None:
    """Names below a heat map, as many as have room."""
    step = math.ceil(len(columns) / MANY)
    places = range(0, len(columns), step)
    names = [short(columns[x].removeprefix("layers.").removeprefix("knot.")) for x in places]
    turned = max(map(len, names)) * len(names) > 56
    axes.set_xticks(places, names, fontsize=8.5, rotation=90 if turned else 0)
    axes.set_xlabel("knot" if columns[0].startswith("knot.") else "layers")
    axes.tick_params(length=0)
