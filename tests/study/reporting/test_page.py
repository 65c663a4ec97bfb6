"""The report's page and its files."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from objectives.errors import ExportError
from study.reporting.page import write_report
from study.search.history import ScoreHistory
from tests.support.reports import judgement, report


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
