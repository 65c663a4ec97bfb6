"""The sheet that the report's figures are drawn on: wide enough for a phone and no wider, so that
two stand beside each other on a desk. No window and no global state of matplotlib's."""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.cli.escaping import drawn

WIDTH, HEIGHT = 5.4, 3.6
"""Inches."""
INK, GREY, BLUE, ORANGE, GREEN = "#1f2933", "#9aa5b1", "#2563eb", "#d97706", "#0f766e"
COLOURS = (BLUE, ORANGE, GREEN, "#9333ea", "#be123c", "#4d7c0f")
MANY = 12
"""Columns of a heat map beyond which cells carry no number; bars of a ranking."""
_DPI = 180
_STYLE: Any = {
    "font.size": 9.5,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

Found = Mapping[str, Any]
"""What study/reporting/data.py gives."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """A context in which figures are drawn. A character that the font lacks is drawn as a box."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def sheet(title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one set of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots()


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def legend_below(axes: Axes, columns: int) -> None:
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def whole_numbers(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def wrapped(name: str, width: int) -> str:
    return "\n".join(map(drawn, textwrap.wrap(middle(name, 2 * width), width)))


def short(name: str, longest: int = 40) -> str:
    """A name in one line of a figure."""
    return drawn(middle(name, longest))


def middle(name: str, longest: int) -> str:
    """The name, its middle left out where it is long."""
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
