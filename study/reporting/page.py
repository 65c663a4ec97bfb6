"""The report's page, one self-contained file, with its figures and its data beside it."""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from objectives.errors import ExportError
from study.cli.escaping import for_template
from study.verdict.advice import at_bound_text
from study.verdict.wording import decision, points

from .charts import CHARTS, Section
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
PICTURES = frozenset(f"{name}.png" for name in CHARTS)
"""Names of the files that figures are written to."""


@dataclass(frozen=True)
class _Embedded:
    """A figure of the page."""

    section: Section
    data: str
    """The PNG in base64."""
    alt: str
    caption: str


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
            if old.stem in CHARTS and old.stem not in images:
                old.unlink()
        _write(page, render(data, images, datetime.now(UTC)).encode())
        _write(folder / DATA_FILE, text.encode())
    except OSError as error:
        raise ExportError(f"cannot write the report to {folder}: {error}") from None
    return page


def render(data: ReportData, images: Mapping[str, bytes], written: datetime) -> str:
    """Return the page, dated `written`, with these figures, PNGs by name, embedded in it."""
    embedded = [
        _Embedded(
            CHARTS[name].section,
            base64.b64encode(image).decode(),
            CHARTS[name].describe(data),
            CHARTS[name].caption,
        )
        for name, image in images.items()
    ]
    return _PAGES.get_template("report.html").render(
        report=data,
        verdict=data.verdict,
        notes=notes(data),
        images=embedded,
        points=points,
        decision=decision,
        written=written,
    )


def notes(data: ReportData) -> list[str]:
    """Return the sentences below the verdict: what a user should know before more trials."""
    merge = data.merge
    if merge is None or not merge.at_bound:
        return list(data.advice)
    name = "the final merge" if data.verdict.final else "the best merge so far"
    return [*data.advice, at_bound_text(merge.at_bound, merge.searched, name)]


def pictures(data: ReportData) -> dict[str, bytes]:
    """Return the figures that have something to show, PNGs by name, in the order of the page."""
    with style():
        figures = {name: chart.draw(data) for name, chart in CHARTS.items()}
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
