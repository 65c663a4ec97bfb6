"""The report's page: one self-contained file, and its figures and data beside it."""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from objectives.errors import ExportError
from study.cli.escaping import in_page
from study.verdict.wording import points

from . import search_figures as draw_search
from . import verdict_figures as draw_verdict
from .style import png, style

PAGE_FILE, DATA_FILE = "index.html", "report.json"
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=in_page,
)
_CAPTIONS = {
    "held-out": "On questions that the search never saw.",
    "differences": "All intervals hold together, also for a merge that these questions chose.",
    "best-so-far": "The best of many noisy scores overstates what a merge is worth.",
    "population": "What CMA-ES drew, generation by generation.",
    "tasks": "On the search questions.",
    "merge": "Each model's numbers, block by block.",
    "importance": "Over the search trials.",
    "convergence": "The distribution that each generation was drawn from, replayed.",
    "time": "Medians of each generation; the totals stand in the table.",
}
PICTURES = frozenset(f"{name}.png" for name in _CAPTIONS)
"""The files that figures are written to."""


def write_report(found: Mapping[str, Any], folder: Path, anew: bool = False) -> Path:
    """Write page, PNGs and data; gives the page. Where the same data are there already nothing is
    written, unless it is to be done `anew`. Raises ExportError."""
    page, data = folder / PAGE_FILE, json.dumps(found, indent=1, allow_nan=False) + "\n"
    try:
        if not anew and page.exists() and _text(folder / DATA_FILE) == data:
            return page
        folder.mkdir(parents=True, exist_ok=True)
        drawn = pictures(found)
        for name, png in drawn.items():
            _write(folder / f"{name}.png", png)
        for old in folder.glob("*.png"):
            if old.stem in _CAPTIONS and old.stem not in drawn:
                old.unlink()
        _write(page, render(found, drawn).encode())
        _write(folder / DATA_FILE, data.encode())
    except OSError as error:
        raise ExportError(f"cannot write the report to {folder}: {error}") from None
    return page


def render(found: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The page, with its figures in it."""
    images = {
        name: (base64.b64encode(png).decode(), _CAPTIONS[name]) for name, png in drawn.items()
    }
    return _PAGES.get_template("report.html").render(
        found=found, verdict=found["verdict"], images=images, points=points
    )


def pictures(found: Mapping[str, Any]) -> dict[str, bytes]:
    """PNGs by name, those that there is something to draw for, in the order of the page."""
    drawn = {
        "held-out": draw_verdict.held_out,
        "differences": draw_verdict.differences,
        "best-so-far": draw_search.best_so_far,
        "population": draw_search.population,
        "tasks": draw_search.tasks,
        "merge": draw_verdict.merge,
        "importance": draw_search.importance,
        "convergence": draw_search.convergence,
        "time": draw_search.time,
    }
    with style():
        figures = {name: draw(found) for name, draw in drawn.items()}
        return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
