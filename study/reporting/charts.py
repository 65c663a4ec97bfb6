"""The charts of the report, in the order of the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from . import alt_texts, path_figures, search_figures, verdict_figures
from .data import ReportData

Section = Literal["verdict", "merge", "search"]


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    section: Section
    """The part of the page that shows it."""
    draw: Callable[[ReportData], Figure | None]
    """Return the figure, or None if there is nothing to draw."""
    describe: Callable[[ReportData], str]
    """Return the alternative text of a figure that was drawn."""
    caption: str


CHARTS: Mapping[str, Chart] = {
    "held-out": Chart(
        "verdict",
        verdict_figures.held_out,
        alt_texts.held_out,
        "Scores on the held-out questions, which the search never used.",
    ),
    "differences": Chart(
        "verdict",
        verdict_figures.differences,
        alt_texts.differences,
        "95% intervals, which also hold for a merge that these questions selected.",
    ),
    "merge": Chart(
        "merge",
        verdict_figures.merge,
        alt_texts.merge,
        "The parameters of each model, block by block.",
    ),
    "path": Chart(
        "merge",
        path_figures.path,
        alt_texts.path,
        "From left to right the order in which a token passes through the layers.",
    ),
    "depth": Chart(
        "merge",
        path_figures.depth,
        alt_texts.depth,
        "A path with more layers takes more time and memory in proportion.",
    ),
    "importance": Chart(
        "merge",
        search_figures.importance,
        alt_texts.importance,
        "Computed from the search trials.",
    ),
    "losses": Chart(
        "search",
        search_figures.losses,
        alt_texts.losses,
        "Grey: each batch. The dotted line is the checkpoint with the lowest loss on the questions "
        "that no batch contains; the distance between the lines is what the ascent overfits.",
    ),
    "best-so-far": Chart(
        "search",
        search_figures.best_so_far,
        alt_texts.best_so_far,
        "The highest of many noisy scores overstates the quality of the merge.",
    ),
    "population": Chart(
        "search",
        search_figures.population,
        alt_texts.population,
        "The trials that the search proposed, generation by generation.",
    ),
    "tasks": Chart(
        "search",
        search_figures.tasks,
        alt_texts.tasks,
        "Scores on the search questions.",
    ),
    "convergence": Chart(
        "search",
        search_figures.convergence,
        alt_texts.convergence,
        "Where each generation was sampled or each step began, replayed from the stored trials.",
    ),
    "time": Chart(
        "search",
        search_figures.time,
        alt_texts.time,
        "Medians of each generation; the table below has the totals.",
    ),
}
"""The charts by name, which is also that of the file with the figure."""
