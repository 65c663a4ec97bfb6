"""The report's page in a browser: on a phone and on a desktop, in both colour schemes, with the
keyboard, on paper."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objectives.scoring import Scores, TaskScores
from study.reporting.answer_changes import AnswerChanges, Example, Selection, TaskChanges
from study.reporting.data import QuestionCounts, ReportData
from study.reporting.page import write_report
from study.reporting.search_statistics import Distribution, TimeSpent
from study.search.contenders import Role
from study.verdict.scoreboard import ScoredContender
from tests.support.browser import Browser, chromium, started
from tests.support.reports import report, scored

NAMES = ["plain", "long" * 80, "several words " * 20, '"><img src=//x.example onerror=alert(1)>']
WIDTHS = [400, 1400]
SCHEMES = ["light", "dark"]
MIN_CONTRAST = 4.5
"""The least contrast ratio of a text (WCAG 2.2, level AA)."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    with started(program) as browser:
        yield browser


@pytest.fixture(scope="module", params=NAMES, ids=["plain", "long", "words", "markup"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(full_report(request.param), tmp_path_factory.mktemp("report"))


def full_report(name: str) -> ReportData:
    """Return a report with every part of the page, and with nine tasks."""
    tasks = [f"{name}_{number}" for number in range(9)]
    contenders = [contender(name, role, tasks) for role in ("base", "parent", "top", "mean")]
    data = report(name)
    [comparison] = data.verdict.comparisons
    final = contenders[2]
    comparison = replace(
        comparison, contender=final.contender.name, mcnemar_p=dict.fromkeys(tasks, 0.5)
    )
    parts = ("ask", "merge", "score")
    selection = Selection(9, 90, [Example(name, name), Example(name * 3, "1")])
    return replace(
        data,
        tasks=dict.fromkeys(tasks, 1 / 9),
        questions=QuestionCounts(dict.fromkeys(tasks, 3), dict.fromkeys(tasks, 3)),
        verdict=replace(
            data.verdict,
            contenders=contenders,
            tasks=tasks,
            final=final,
            comparisons=[comparison],
        ),
        convergence=[Distribution(0, 0.2, 0.0, 0.0), Distribution(1, 0.1, 0.1, 0.1)],
        seconds=TimeSpent(
            {"search": 2},
            {"search": dict.fromkeys(parts, 1.0)},
            {part: [1.0, 2.0] for part in parts},
        ),
        answer_changes=AnswerChanges(
            name, "held-out", {task: TaskChanges(selection, selection) for task in tasks}
        ),
    )


def contender(name: str, role: Role, tasks: Sequence[str]) -> ScoredContender:
    """Return a contender that was asked all tasks."""
    scores_Q = np.array([0.0, 1.0, 1.0], np.float32)
    scores = Scores({task: TaskScores(1 / 9, scores_Q, scores_Q) for task in tasks})
    return replace(scored(name, 0.5, role), search=scores, held_out=scores)


@pytest.mark.parametrize("width", WIDTHS)
def test_only_tables_scroll_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.evaluate("innerWidth") == width
    root = "document.documentElement"
    assert browser.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    outside = """[...document.querySelectorAll("main *, header *, nav *")]
        .filter(e => !e.closest("table, .skip"))
        .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 200))"""
    assert browser.evaluate(outside) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_requests_nothing_and_the_console_stays_empty(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme)
    first, *others = browser.observed.requests
    assert first == page.resolve().as_uri()
    assert [url[:80] for url in others if not url.startswith("data:image/png;base64,")] == []
    assert browser.observed.messages == []


def test_a_request_to_the_network_and_a_message_would_be_noticed(
    browser: Browser, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:1/x.png"><script>console.log("x")</script>')
    browser.open(bad, 400)
    assert "http://127.0.0.1:1/x.png" in browser.observed.requests
    assert len(browser.observed.messages) >= 2


def test_every_image_is_displayed_and_has_an_alternative_text(browser: Browser, page: Path) -> None:
    browser.open(page, 400)
    images = browser.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth])")
    assert len(images) == len(list(page.parent.glob("*.png"))) > 5
    assert all(len(alt) > 30 and width > 0 for alt, width in images)


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_are_legible_in_both_colour_schemes(browser: Browser, page: Path, width: int) -> None:
    pages = {}
    for scheme in SCHEMES:
        browser.open(page, width, scheme)
        texts = browser.evaluate(
            """[...document.querySelectorAll("body *")]
            .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
            .map(e => {
                let under = e;
                while (getComputedStyle(under).backgroundColor == "rgba(0, 0, 0, 0)")
                    under = under.parentElement;
                return [e.outerHTML.slice(0, 80), getComputedStyle(e).color,
                        getComputedStyle(under).backgroundColor];
            })"""
        )
        assert len(texts) > 50
        pale = [t for t in texts if contrast(luminance(t[1]), luminance(t[2])) < MIN_CONTRAST]
        assert pale == []
        pages[scheme] = luminance(
            browser.evaluate("getComputedStyle(document.body).backgroundColor")
        )
    assert pages["light"] > 0.8
    assert pages["dark"] < 0.05


@pytest.mark.parametrize(("scheme", "inverted"), [("light", False), ("dark", True)])
def test_figures_are_inverted_on_a_dark_page(
    browser: Browser, page: Path, scheme: str, inverted: bool
) -> None:
    browser.open(page, 1400, scheme)
    filters = browser.evaluate("[...document.images].map(i => getComputedStyle(i).filter)")
    assert {"invert(1)" in filter_ for filter_ in filters} == {inverted}


def test_the_keyboard_reaches_the_verdict_and_every_table(browser: Browser, page: Path) -> None:
    browser.open(page, 400)
    active = "document.activeElement"
    browser.press("Tab")
    assert browser.evaluate(f"{active}.className") == "skip"
    assert browser.evaluate(f"{active}.getBoundingClientRect().top") >= 0
    assert browser.evaluate(f"getComputedStyle({active}).outlineStyle") == "solid"
    browser.press("Enter")
    assert browser.evaluate(f"{active}.id") == "verdict"
    regions = browser.evaluate("document.querySelectorAll('[role=region][aria-label]').length")
    assert regions == browser.evaluate("document.querySelectorAll('table').length") == 5
    for region in range(3):  # the fourth is in a closed list
        browser.press("Tab")
        focused = f"[...document.querySelectorAll('[role=region]')].indexOf({active})"
        assert browser.evaluate(focused) == region
        assert browser.evaluate(f"getComputedStyle({active}).outlineStyle") == "solid"
    browser.press("Tab")
    assert browser.evaluate(f"{active}.localName") == "summary"
    browser.press("Enter")
    assert browser.evaluate(f"{active}.parentElement.open")


def test_the_page_has_landmarks_headings_in_order_and_links_that_lead_somewhere(
    browser: Browser, page: Path
) -> None:
    browser.open(page, 1400)
    assert browser.evaluate("document.documentElement.lang") == "en"
    for landmark in ("header", "nav", "main"):
        assert browser.evaluate(f"document.querySelectorAll('{landmark}').length") == 1
    headings = browser.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => h.tagName)")
    levels = [int(name[1]) for name in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    links = browser.evaluate("[...document.links].map(a => a.getAttribute('href'))")
    ids = browser.evaluate("[...document.querySelectorAll('h2')].map(h => '#' + h.id)")
    assert links == ["#verdict", *ids]


def test_a_printed_page_is_light_and_has_the_questions_of_closed_lists(
    browser: Browser, page: Path
) -> None:
    browser.open(page, 700, "dark", "print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert browser.evaluate("getComputedStyle(document.images[0]).filter") == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    visible = "[...document.querySelectorAll('details li')].map(e => e.checkVisibility())"
    assert {*browser.evaluate(visible)} == {True}


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(a: float, b: float) -> float:
    """Return the contrast ratio of two luminances."""
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
