"""Tests of what `study.export` refuses before it opens a model."""

import sys
from pathlib import Path

import pytest

from objectives.errors import ExportError
from storage.claims import Claims
from study.config.errors import ConfigError
from study.export import _export
from tests.support.stored_trials import new, trial

STUDY = """\
genome: {models: [org/a, org/b], base_model: org/c, merge_method: linear}
tasks: [{name: t, kind: multiple_choice, data: q.jsonl}]
study: {name: demo, storage: "sqlite:///s.db"}
"""


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any attempt to open the models fail."""
    monkeypatch.setitem(sys.modules, "study.setup.setup", None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def claims(config: Path) -> Claims:
    """The claims of a study without trials."""
    return new(f"sqlite:///{config.parent}/s.db", "demo")[1]


def export(config: Path, trial: str, out: str = "m", overwrite: bool = False) -> None:
    _export(config, config.parent / out, trial, None, overwrite, [])


@pytest.mark.parametrize(
    ("overwrite", "message"),
    [
        (False, "m already exists; choose another folder or use --overwrite"),
        (True, "m is not an exported merge"),
    ],
)
def test_an_existing_folder_is_refused_before_the_database_is_opened(
    config: Path, overwrite: bool, message: str
) -> None:
    (config.parent / "m").mkdir()
    (config.parent / "m" / "mine.txt").touch()
    with pytest.raises(ExportError, match=message):
        export(config, "best", overwrite=overwrite)
    (config.parent / "file").touch()
    with pytest.raises(ExportError, match="file is a file; choose another name"):
        export(config, "best", "file")


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("final", r"--trial final: No verdict yet\. Not scored: the final merges\. .* --score$"),
        ("best", "--trial best: no merge has been scored yet"),
        ("0", "--trial 0: must be final, best or a number; the study has no trials yet"),
    ],
)
def test_a_study_without_trials_is_refused(
    config: Path, claims: Claims, trial: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(config, trial)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("final", "(?s)No verdict yet.*--trial best needs no verdict"),
        ("0", "--trial 0: that trial has failed, so there is nothing to export"),
        ("1", "--trial 1: that trial was interrupted, so there"),
        ("2", "--trial 2: that trial is running, so there"),
        ("4", "--trial 4: must be final, best or a number from 0 to 3"),
        ("-1", "--trial -1: must be final, best or a number from 0 to 3"),
        ("last", "--trial last: must be final, best or a number from 0 to 3"),
    ],
)
def test_a_trial_that_has_no_merge_is_refused(
    config: Path, claims: Claims, name: str, message: str
) -> None:
    claims.fail(trial(claims, "failed"), "no reason")
    claims.fail(trial(claims, "interrupted"), "Interrupted: by SIGINT")
    trial(claims, "running")
    claims.finish(trial(claims, "complete"), 0.5, {}, {}, {})
    with pytest.raises(ConfigError, match=message):
        export(config, name)


@pytest.mark.parametrize("name", ["best", "0"])
def test_a_trial_that_can_be_exported_passes_these_checks(
    config: Path, claims: Claims, name: str
) -> None:
    claims.finish(trial(claims), 0.5, {}, {}, {})
    with pytest.raises(ImportError, match=r"study\.setup\.setup"):
        export(config, name)
