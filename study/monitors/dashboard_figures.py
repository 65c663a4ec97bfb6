"""The plotly figures of a study on the dashboard: best so far, population and tasks."""

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from storage.trials import TrialRecord
from study.cli.escaping import for_plotly
from study.search.ascent.history import AscentHistory
from study.search.history import ScoreHistory

_DIGITS = 4
_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 50, "b": 50}}


def figures(records: Sequence[TrialRecord]) -> Mapping[str, go.Figure]:
    """Return the figures by their id on the dashboard; none before the first search trial."""
    history = ScoreHistory.of(records)
    if not history.values:
        return {}
    ascents = AscentHistory.of(records)
    if ascents is not None:
        return {"losses": _losses(ascents), "tasks": _tasks(history)}
    return {
        "best-so-far": _best_so_far(history),
        "population": _population(history),
        "tasks": _tasks(history),
    }


def _losses(ascents: AscentHistory) -> go.Figure:
    """Draw the losses of each ascent: of the batches, and of validation."""
    figure = _figure("Loss of the search by gradient", "step", "loss")
    for ascent, curve in ascents.ascents.items():
        name = f", ascent {ascent}" if len(ascents.ascents) > 1 else ""
        steps = [point.steps for point in curve.checkpoints]
        figure.add_scatter(
            y=_rounded(curve.losses), mode="markers", name=f"batch{name}", opacity=0.4
        )
        figure.add_scatter(
            x=steps,
            y=_rounded(point.batch_loss for point in curve.checkpoints),
            mode="lines+markers",
            name=f"batches, mean of the last steps{name}",
        )
        figure.add_scatter(
            x=steps,
            y=_rounded(point.validation_loss for point in curve.checkpoints),
            mode="lines+markers",
            name=f"validation questions{name}",
        )
    return figure


def _best_so_far(history: ScoreHistory) -> go.Figure:
    """Draw every trial, the best score so far and the baselines."""
    numbers = list(range(1, len(history.values) + 1))
    figure = _figure("Best so far (score on search questions)", "search trial")
    figure.add_scatter(
        x=numbers, y=_rounded(history.values), mode="markers", name="trial", opacity=0.4
    )
    figure.add_scatter(
        x=numbers, y=_rounded(history.best_so_far()), mode="lines", name="best so far"
    )
    for name, value in history.levels().items():
        figure.add_scatter(
            x=[1, len(numbers)],
            y=_rounded([value] * 2),
            mode="lines",
            line={"dash": "dot"},
            name=name,
        )
    return figure


def _population(history: ScoreHistory) -> go.Figure:
    """Draw the best, the mean and the worst score of each generation."""
    generations = history.by_generation()
    figure = _figure("Population (score on search questions)", "generation")
    for name in ("best", "mean", "worst"):
        figure.add_scatter(
            x=[g.generation for g in generations],
            y=_rounded(getattr(g, name) for g in generations),
            mode="lines+markers",
            name=name,
        )
    return figure


def _tasks(history: ScoreHistory) -> go.Figure:
    """Draw the mean score of each task in each generation."""
    figure = _figure("Tasks (mean of each generation)", "generation")
    generations = history.by_generation()
    for task in history.tasks:
        asked = [g for g in generations if task in g.tasks]
        figure.add_scatter(
            x=[g.generation for g in asked],
            y=_rounded(g.tasks[task] for g in asked),
            mode="lines+markers",
            name=for_plotly(task),
        )
    return figure


def _figure(title: str, x: str, y: str = "score") -> go.Figure:
    return go.Figure(layout={"title": title, "xaxis_title": x, "yaxis_title": y, **_LAYOUT})


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]
