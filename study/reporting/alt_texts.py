"""Alternative texts of the report's figures: each says in words what its figure shows.

Each function describes the figure of the same name, and is called only if that figure is drawn.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from .data import ReportData
from .style import elide

_MAX_NAMED = 12
"""Items of a figure that are listed."""
_MAX_NAME = 40
"""Characters of a name."""


def held_out(data: ReportData) -> str:
    scores = [
        f"{_name(summary.name)} {summary.held_out.value:.3f} ± {summary.held_out.margin:.3f}"
        for summary in data.verdict.summaries
        if summary.held_out is not None and summary.held_out.value is not None
    ]
    return f"Bar chart of held-out scores with 95% intervals: {_listed(scores)}."


def differences(data: ReportData) -> str:
    pairs = [
        f"{_name(pair.reference)} {100 * pair.difference:+.1f} ± {100 * pair.margin:.1f}"
        for pair in data.verdict.against_final
    ]
    return (
        "Differences in points between the final merge and each reference, with 95% intervals: "
        f"{_listed(pairs)}."
    )


def losses(data: ReportData) -> str:
    assert data.ascents is not None
    curves = [
        f"ascent {ascent} from {curve.losses[0]:.3f} to {curve.losses[-1]:.3f} in "
        f"{len(curve.losses)} steps"
        for ascent, curve in data.ascents.ascents.items()
    ]
    best = ""
    if data.ascents.best is not None:
        ascent, point = data.ascents.best
        best = (
            f" The lowest validation loss, {point.validation_loss:.3f}, is that of ascent {ascent} "
            f"after step {point.steps}."
        )
    return f"Line chart of the losses of the batches: {_listed(curves)}.{best}"


def best_so_far(data: ReportData) -> str:
    best = data.scores.best_so_far()
    levels = [f"{name} {value:.3f}" for name, value in data.scores.levels().items()]
    text = (
        f"Scatter chart of the scores of {len(best)} search trials. The best score so far rises "
        f"from {best[0]:.3f} to {best[-1]:.3f}."
    )
    return f"{text} For comparison: {_listed(levels)}." if levels else text


def population(data: ReportData) -> str:
    generations = data.scores.by_generation()
    first, last = generations[0], generations[-1]
    return (
        f"Line chart over {_count(generations)}: the mean score goes from {first.mean:.3f} to "
        f"{last.mean:.3f}, the range from {first.worst:.3f}–{first.best:.3f} to "
        f"{last.worst:.3f}–{last.best:.3f}."
    )


def tasks(data: ReportData) -> str:
    generations = data.scores.by_generation()
    changes = []
    for task in data.scores.tasks:
        means = [g.tasks[task] for g in generations if task in g.tasks]
        if means:
            changes.append(f"{_name(task)} from {means[0]:.3f} to {means[-1]:.3f}")
    return f"Line chart of mean task scores over {_count(generations)}: {_listed(changes)}."


def merge(data: ReportData) -> str:
    assert data.merge is not None
    maps = []
    for parameter, rows in data.merge.values.items():
        means = [
            f"{_name(model)} {np.mean(row):.2f} ({min(row):.2f} to {max(row):.2f})"
            for model, row in zip(data.merge.models, rows, strict=True)
        ]
        maps.append(f"{_name(parameter).capitalize()}, mean and range: {_listed(means)}.")
    return f"Heat map of the merge of trial {data.merge.trial}. {' '.join(maps)}"


def path(data: ReportData) -> str:
    assert data.path is not None
    path = data.path
    counts = [
        f"{sum(hop.model == model for hop in path.hops)} of {_name(model)}" for model in path.models
    ]
    scales = [hop.scale for hop in path.hops]
    scaled = f" Scales from {min(scales):.2f} to {max(scales):.2f}." if path.scaled else ""
    return (
        f"The path of trial {path.trial} has {len(path.hops)} layers: {_listed(counts)}; "
        f"{path.repeated} are repeated, {path.skipped} depths are skipped.{scaled}"
    )


def depth(data: ReportData) -> str:
    assert data.path is not None
    lengths = [score.layers for score in data.path.scores]
    best = max(data.path.scores, key=lambda score: score.score)
    return (
        f"Scatter chart of {len(lengths)} search trials: paths of {min(lengths)} to {max(lengths)} "
        f"layers; the highest score, {best.score:.3f}, is that of a path of {best.layers}."
    )


def importance(data: ReportData) -> str:
    shares = [f"{_name(name)} {share:.3f}" for name, share in (data.importance or {}).items()]
    return f"Bar chart of the importance of parameters: {_listed(shares)}."


def convergence(data: ReportData) -> str:
    first, last = data.convergence[0], data.convergence[-1]
    size, point = ("step size", "mean") if data.ascents is None else ("learning rate", "point")
    return (
        f"Line chart: the {size} goes from {first.sigma:.3g} to {last.sigma:.3g}; the last {point} "
        f"is {last.from_start:.3g} away from the first."
    )


def time(data: ReportData) -> str:
    parts = [
        f"{part} from {values[0]:.3g} to {values[-1]:.3g} s"
        for part, values in data.seconds.medians.items()
        if values
    ]
    return f"Stacked bars of the median duration of the parts of a trial: {_listed(parts)}."


def _name(name: str) -> str:
    return elide(name, _MAX_NAME)


def _count(generations: Sequence[object]) -> str:
    return "1 generation" if len(generations) == 1 else f"{len(generations)} generations"


def _listed(items: Iterable[str]) -> str:
    texts = list(items)
    more = len(texts) - _MAX_NAMED
    return "; ".join(texts[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
