"""The alternative texts of the report's figures."""

from dataclasses import replace

import pytest

from study.reporting.charts import CHARTS
from study.reporting.search_statistics import Distribution, TimeSpent
from study.search.ascent.history import AscentCurve, AscentHistory, Checkpoint
from tests.support.reports import report

DATA = replace(
    report("x", 0.25),
    importance={f"parameter {number}": 1 / (number + 1) for number in range(14)},
    convergence=[Distribution(0, 0.2, 0.0, 0.0), Distribution(1, 0.1, 0.3, 0.3)],
    seconds=TimeSpent({}, {}, {"ask": [0.5, 1.5], "merge": [2.0, 1.0]}),
)
CURVE = AscentCurve([1.5, 1.25, 1.0], [Checkpoint(2, 1.125, 1.75, 0.5)])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("held-out", ["x 0.250 ± "]),
        ("differences", ["x +25.0 ± 8.3"]),
        ("best-so-far", ["2 search trials", "from 0.250 to 0.250", "best parent 0.250"]),
        ("population", ["1 generation:", "0.250–0.250"]),
        ("tasks", ["1 generation:", "x from 0.250 to 0.250"]),
        ("merge", ["trial 0", "Weight", "x 0.25 (0.25 to 0.25)"]),
        ("importance", ["parameter 0 1.000", "and 2 more"]),
        ("convergence", ["from 0.2 to 0.1", "0.3 away"]),
        ("time", ["ask from 0.5 to 1.5 s; merge from 2 to 1 s"]),
    ],
)
def test_a_text_has_the_numbers_of_its_figure(name: str, parts: list[str]) -> None:
    text = CHARTS[name].describe(DATA)
    assert all(part in text for part in parts), text


def test_the_losses_of_a_search_by_gradient_are_described() -> None:
    text = CHARTS["losses"].describe(replace(DATA, ascents=AscentHistory({0: CURVE}, 9)))
    assert "ascent 0 from 1.500 to 1.000 in 3 steps" in text
    assert "1.750, is that of ascent 0 after step 2" in text


def test_long_names_are_shortened() -> None:
    assert all(len(CHARTS[n].describe(report("x" * 999))) < 400 for n in ("held-out", "merge"))
