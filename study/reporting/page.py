"""The report's page, one self-contained file, with its figures and its data beside it."""

import base64
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from objectives.errors import ExportError
from study.cli.escaping import for_template
from study.verdict.wording import points

from . import search_figures, verdict_figures
from .data import ReportData
from .style import png, style

PAGE_FILE, DATA_FILE = "index.html", "report.json"
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=for_template,
)
_FIGURES: Mapping[str, tuple[Callable[[ReportData], Figure | None], str]] = {
    "held-out": (
        verdict_figures.held_out,
        "Scores on the held-out questions, which the search never used.",
    ),
    "differences": (
        verdict_figures.differences,
        "95% intervals, which also hold for a merge that these questions selected.",
    ),
    "losses": (
        search_figures.losses,
        "Grey: each batch. The dotted line is the checkpoint with the lowest loss on the questions "
        "that no batch contains; the distance between the lines is what the ascent overfits.",
    ),
    "best-so-far": (
        search_figures.best_so_far,
        "The highest of many noisy scores overstates the quality of the merge.",
    ),
    "population": (
        search_figures.population,
        "The trials that CMA-ES proposed, generation by generation.",
    ),
    "tasks": (search_figures.tasks, "Scores on the search questions."),
    "merge": (verdict_figures.merge, "The parameters of each model, block by block."),
    "importance": (search_figures.importance, "Computed from the search trials."),
    "convergence": (
        search_figures.convergence,
        "Where each generation was sampled or each step began, replayed from the stored trials.",
    ),
    "time": (search_figures.time, "Medians of each generation; the table below has the totals."),
}
"""The function and the caption of each figure, in the order of the page."""
PICTURES = frozenset(f"{name}.png" for name in _FIGURES)
"""Names of the files that figures are written to."""


def write_report(data: ReportData, folder: Path, rewrite: bool = False) -> Path:
    """Write the page, its figures and its data; return the path of the page.

    A report with the same data is kept unless `rewrite` is set. Raises ExportError.
    """
    page, text = folder / PAGE_FILE, json.dumps(data.to_dict(), indent=1, allow_nan=False) + "\n"
    try:
        if not rewrite and page.exists() and _text(folder / DATA_FILE) == text:
            return page
        folder.mkdir(parents=True, exist_ok=True)
        images = pictures(data)
        for name, image in images.items():
            _write(folder / f"{name}.png", image)
        for old in folder.glob("*.png"):
            if old.stem in _FIGURES and old.stem not in images:
                old.unlink()
        _write(page, render(data, images).encode())
        _write(folder / DATA_FILE, text.encode())
    except OSError as error:
        raise ExportError(f"cannot write the report to {folder}: {error}") from None
    return page


def render(data: ReportData, images: Mapping[str, bytes]) -> str:
    """Return the page with these figures, PNGs by name, embedded in it."""
    embedded = {
        name: (base64.b64encode(image).decode(), _FIGURES[name][1])
        for name, image in images.items()
    }
    return _PAGES.get_template("report.html").render(
        report=data, verdict=data.verdict, images=embedded, points=points
    )


def pictures(data: ReportData) -> dict[str, bytes]:
    """Return the figures that have something to show, PNGs by name, in the order of the page."""
    with style():
        figures = {name: draw(data) for name, (draw, _) in _FIGURES.items()}
        return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _write(path: Path, data: bytes) -> None:
    """Replace the file atomically."""
    beside = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
