"""The study's figures on the dashboard: best so far, population, tasks, by generation."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from storage.trials import GENERATION, TrialRecord
from study.cli.escaping import plotted

_DIGITS = 4
_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 50, "b": 50}}


def figures(records: Sequence[TrialRecord]) -> Mapping[str, go.Figure]:
    """By the id they have on the dashboard; none before the first search trial."""
    search = [r for r in records if r.complete and r.kind == "search"]
    if not search:
        return {}
    return {
        "best-so-far": _best_so_far(search, records),
        "population": _population(search),
        "tasks": _tasks(search),
    }


def _best_so_far(search: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> go.Figure:
    """Every trial and the running best, beside the baselines."""
    best, line = float("-inf"), []
    for record in search:
        if record.value is not None:
            best = max(best, record.value)
        line.append(best)
    numbers = list(range(1, len(search) + 1))
    figure = _figure("Best so far (score on search questions)", "search trial", "score")
    figure.add_scatter(
        x=numbers, y=_rounded(r.value for r in search), mode="markers", name="trial", opacity=0.4
    )
    figure.add_scatter(x=numbers, y=_rounded(line), mode="lines", name="best so far")
    for kind in ("base", "parent", "uniform"):
        values = [r.value for r in records if r.complete and r.kind == kind and r.value is not None]
        if values:
            name = kind if kind == "base" else f"best {kind}"
            figure.add_scatter(
                x=[1, len(search)],
                y=_rounded([max(values)] * 2),
                mode="lines",
                line={"dash": "dot"},
                name=name,
            )
    return figure


def _population(search: Sequence[TrialRecord]) -> go.Figure:
    """Each generation's best, mean and worst."""
    values = _by_generation(search, lambda record: record.value)
    figure = _figure("Population (score on search questions)", "generation", "score")
    for name, of in (("best", max), ("mean", statistics.fmean), ("worst", min)):
        heights = _rounded(of(of_generation) for of_generation in values.values())
        figure.add_scatter(x=list(values), y=heights, mode="lines+markers", name=name)
    return figure


def _tasks(search: Sequence[TrialRecord]) -> go.Figure:
    """Each task's mean over the generation."""
    figure = _figure("Tasks (mean of each generation)", "generation", "score")
    for task in search[-1].tasks:
        values = _by_generation(search, lambda record, task=task: record.tasks.get(task))
        heights = _rounded(statistics.fmean(of_generation) for of_generation in values.values())
        figure.add_scatter(x=list(values), y=heights, mode="lines+markers", name=plotted(task))
    return figure


def _by_generation(search: Sequence[TrialRecord], of: Any) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for record in search:
        value = of(record)
        if value is not None:
            found[record.attributes[GENERATION]].append(value)
    return dict(sorted(found.items()))


def _figure(title: str, x: str, y: str) -> go.Figure:
    return go.Figure(layout={"title": title, "xaxis_title": x, "yaxis_title": y, **_LAYOUT})


def _rounded(values: Any) -> list[float | None]:
    return [None if value is None else round(value, _DIGITS) for value in values]
