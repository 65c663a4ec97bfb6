"""The size, the colours and the labels of the report's figures.

A figure is as wide as a phone's screen, so two of them fit side by side on a desktop. Figures are
made without matplotlib's windows and global state.
"""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.cli.escaping import for_matplotlib

WIDTH, HEIGHT = 5.4, 3.6
"""Inches."""
INK, GREY, BLUE, ORANGE, GREEN = "#1f2933", "#9aa5b1", "#2563eb", "#d97706", "#0f766e"
COLOURS = (BLUE, ORANGE, GREEN, "#9333ea", "#be123c", "#4d7c0f")
MAX_LABELS = 12
"""Columns of a heat map that are labelled and whose cells show their numbers, and bars of a
ranking."""
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


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the style to figures made in this context. A character that the font lacks is drawn as
    a box, without a warning."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure with one set of axes; `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots()


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def legend_below(axes: Axes, columns: int) -> None:
    """Add a legend below the axes."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def whole_numbers(axes: Axes, label: str) -> None:
    """Label the horizontal axis, and put its ticks at whole numbers."""
    axes.set_xlabel(label)
    low, high = axes.get_xlim()
    if high - low < 1:  # a single value, which would have fractions beside it
        axes.set_xlim(round(low) - 0.5, round(low) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def cycled(count: int) -> list[str]:
    """Return this many colours, repeated if there are more than COLOURS."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def legible_on(background: Sequence[float]) -> str:
    """Return the colour of a text on this background, INK or white: the one with the higher
    contrast ratio (WCAG 2.2)."""
    under, ink, white = (_luminance(colour) + 0.05 for colour in (background, INK, "white"))
    return INK if under / ink > white / under else "white"


def _luminance(colour: Any) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def wrapped(name: str, width: int) -> str:
    """Return a name as a label of up to two lines of `width` characters."""
    return "\n".join(map(for_matplotlib, textwrap.wrap(elide(name, 2 * width), width)))


def short(name: str, longest: int = 40) -> str:
    """Return a name as a label of one line."""
    return for_matplotlib(elide(name, longest))


def elide(name: str, longest: int) -> str:
    """Return the name, with … in place of its middle if it has more than `longest` characters."""
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
