"""The report's page and its files."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from objectives.errors import ExportError
from study.reporting.page import notes, render, write_report
from study.search.history import ScoreHistory
from tests.support.reports import WRITTEN, judgement, report


def test_a_report_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    nothing = ScoreHistory([], [], {}, [])
    verdict = replace(judgement("x"), contenders=[], comparisons=[])
    data = replace(report("x"), scores=nothing, verdict=verdict, merge=None, importance=None)
    write_report(data, tmp_path / "report")
    before = {path: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="cannot write the report"):
            write_report(replace(data, study="y"), tmp_path / "report")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_a_report_with_the_same_data_is_not_written_again(tmp_path: Path) -> None:
    page = write_report(report("x"), tmp_path)
    page.write_text("edited")
    assert write_report(report("x"), tmp_path) == page
    assert page.read_text() == "edited"
    write_report(report("x"), tmp_path, rewrite=True)
    assert page.read_text() != "edited"


def test_the_notes_are_the_advice_and_the_parameters_at_a_bound() -> None:
    data = replace(report("x"), advice=["An advice."])
    assert data.merge is not None
    assert notes(data) == ["An advice."]
    at_bound = replace(data, merge=replace(data.merge, at_bound=2))
    expected = "2 of 2 parameters of the final merge are within 1% of a bound of their range."
    first, second = notes(at_bound)
    assert first == "An advice."
    assert second.startswith(expected)
    assert expected in " ".join(render(at_bound, {}, WRITTEN).split())
    running = replace(at_bound, verdict=replace(at_bound.verdict, final=None, comparisons=[]))
    assert "parameters of the best merge so far" in notes(running)[1]


def test_p_values_of_single_tasks_stand_apart_from_the_decision() -> None:
    page = " ".join(render(report("x"), {}, WRITTEN).split())
    table = page.partition('id="references"')[2].partition("</table>")[0]
    assert "<td>+50.0 ± 16.7</td> <td>yes</td></tr>" in table
    assert "0.500" not in table
    second = page.partition("<details><summary>A second test")[2].partition("</details>")[0]
    assert "The verdict does not use these numbers." in second
    assert '<th scope="col">p, x</th>' in second
    assert "<td>0.500</td>" in second


def test_without_multiple_choice_there_is_no_second_test() -> None:
    data = report("x")
    [comparison] = data.verdict.comparisons
    verdict = replace(data.verdict, comparisons=[replace(comparison, mcnemar_p={})])
    page = render(replace(data, verdict=verdict), {}, WRITTEN)
    assert 'id="references"' in page
    assert "A second test" not in page
