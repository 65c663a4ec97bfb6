"""Escaping of external names in every output format."""

import io
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from storage.trials import TrialRecord, TrialState
from study.artifacts.model_card import _CARD
from study.cli.escaping import (
    Markdown,
    encodable,
    for_matplotlib,
    for_plotly,
    markdown,
    markdown_code,
    printable,
    printable_lines,
    say,
)
from study.monitors.dashboard_figures import figures
from study.reporting.page import pictures, render
from study.reporting.search_figures import importance, tasks
from study.reporting.verdict_figures import differences, held_out, merge
from study.verdict.scoreboard import table
from tests.support.reports import WRITTEN, report, scored

NAMES = [
    *("mc[/b]", "[red]x[/red]", "a|b", "<script>alert(1)</script>", "a\nb", "---", "\x1b[31mred"),
    *("\r", "\x07", "\u202edrow", "\u2066x", "`code`", "[x](javascript:alert(1))", "$\\frac$"),
    *("![x](http://x.example)", "$a$", "_hidden", "*b*", "a: b", "'", '"', "\\", "&amp;", "#"),
    *("{{ 7 * 7 }}", "{% raw %}", "../../x", "\ud800", "\u6f22\u5b57", "\U0001f642", "\x9b31m"),
    *("\u2028", "%s", " ", "x" * 3000, "-", "\x00", "~~a~~", "www.x.example", "me@x.example"),
]
CONTROLS = {*map(chr, (*range(32), 127, *range(128, 160), 0x202E, 0x2066, 0x2028, 0xD800))}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_one_line_and_no_control_characters(name: str) -> None:
    assert not CONTROLS & {*printable(name)}
    assert not CONTROLS & {*markdown(name)}
    assert not CONTROLS & {*markdown_code(name)}
    assert not CONTROLS & {*for_matplotlib(name)}
    assert not CONTROLS & {*for_plotly(name)}
    assert printable_lines(f"{name}\nnext").endswith("\nnext")
    printable(name).encode()


@pytest.mark.parametrize("name", ["multiple_choice", "org/Mistral-7B-v0.1", "a-b_c.d", "größe"])
def test_an_ordinary_name_is_not_changed(name: str) -> None:
    assert printable(name) == markdown(name) == for_matplotlib(name) == for_plotly(name) == name


def test_characters_that_an_encoding_does_not_have_are_replaced() -> None:
    assert encodable("0.4 ± 0.1 …", "ascii") == "0.4 +/- 0.1 ..."
    assert encodable("漢", "ascii") == "\\u6f22"
    assert encodable("± é", "latin-1") == "± é"
    assert encodable("± 漢", "utf-8") == "± 漢"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.text(max_size=50))
def test_any_text_can_be_printed(text: str) -> None:
    for encoding in ("ascii", "latin-1", "utf-8"):
        encodable(printable_lines(text), encoding).encode(encoding)


def test_results_can_be_printed_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    say("0.4 ± 0.1 of 漢\x1b[2J\nnext")
    stream.flush()
    assert stream.buffer.getvalue() == b"0.4 +/- 0.1 of \\u6f22\\x1b[2J\nnext\n"


# The table


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_table_shows_any_name(name: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=10_000).print(table([scored(name, 0.5)], [name], encoding))
    stream.flush()
    printed = stream.buffer.getvalue().decode(encoding)
    assert encodable(printable(name), encoding) in printed
    assert f"parent {encodable(printable(name), encoding)}" in printed


# Markdown


class Tags(HTMLParser):
    """Parse a page into its tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", NAMES)
def test_a_name_adds_no_markup_to_a_model_card(name: str) -> None:
    import markdown_it

    def rendered(name: str, kind: str) -> Tags:
        card = _CARD.render(
            copied=name if kind == "copy" else None, hops=3 if kind == "path" else 0,
            used=[name, f"{name} 2"], in_order=False, scaled=True,
            front=Markdown("a: 1"), name=f"{name}, trial 3", number=3, models=[name], base=name,
            method=markdown_code(name), what="trial 3", study=markdown_code(name),
            verdict=f"The {name}", tasks=[name], sampled=False,
            rows=[(name, [name, "0.1 / 0.2", "-"])],
        )  # fmt: skip
        front, body = card.split("---\n", 2)[1:]
        assert yaml.safe_load(front) == {"a": 1}
        return Tags(markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(body))

    for kind in ("merge", "copy", "path"):
        plain = rendered("plain", kind)
        assert plain.tags.count("td") == 4
        if name.strip():
            assert rendered(name, kind).tags == plain.tags
            assert printable(name).strip() in rendered(name, kind).text


# Pages and figures

IMAGES = dict.fromkeys(("held-out", "differences", "tasks", "merge", "importance"), b"")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_adds_no_markup_to_the_report(name: str) -> None:
    page, plain = (render(report(n), IMAGES, WRITTEN) for n in (name, "plain"))
    page.encode()
    assert not CONTROLS - {"\n"} & {*page}
    assert [t for t in Tags(page).tags if t != "wbr"] == Tags(plain).tags
    assert printable(name) in Tags(page).text


@pytest.mark.parametrize("name", ["$\\frac$", "_$a$ $ \u6f22 \x1b\n <b> \ud800", " ", "x" * 3000])
def test_figures_with_any_name_can_be_drawn(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawings = pictures(report(name))
    assert {"held-out", "differences", "tasks", "merge", "importance"} <= drawings.keys()


def test_names_are_escaped_for_matplotlib() -> None:
    data = report("_$a$")
    for draw in (held_out, differences, merge, importance):
        figure = draw(data)
        assert figure is not None
        texts = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
        assert r"_\$a\$" in "".join(texts)
    figure = tasks(data)
    assert figure is not None
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [r" _\$a\$"]


def test_names_are_escaped_for_plotly() -> None:
    attributes = {"generation": 0, "slot": 0, "tasks": {"<a href='x'>": 0.0}}
    record = TrialRecord(1, 0, TrialState.COMPLETE, {}, 0.0, attributes)
    assert figures([record])["tasks"].data[0].name == "&lt;a href='x'&gt;"


# Numbers that are 0


def test_a_score_of_0_is_drawn() -> None:
    data = report("x", 0.0)
    figure = held_out(data)
    assert figure is not None
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.0]


def test_a_contender_without_scores_of_all_tasks_is_not_drawn() -> None:
    data = report("x")
    verdict = replace(data.verdict, tasks=["x", "another"])
    assert held_out(replace(data, verdict=verdict)) is None


def test_negative_scores_have_a_best_so_far() -> None:
    records = [
        TrialRecord(n, n, TrialState.COMPLETE, {}, value, {"generation": 0, "slot": n, "tasks": {}})
        for n, value in enumerate((-0.5, -0.25, 0.0, -1.0))
    ]
    assert list(figures(records)["best-so-far"].data[1].y) == [-0.5, -0.25, 0.0, 0.0]
