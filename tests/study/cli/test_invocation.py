"""Commands that users paste."""

import os
import sys
from pathlib import Path

import pytest

from study.cli.invocation import invocation


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's folder of programs, of which the shell knows nothing."""
    folder = tmp_path / "my venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "python3", "merge-study"):
        (folder / name).symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_module_is_named_with_its_interpreter(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/study/run.py", "s.yaml"])
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    words = ["a study.yaml", "--storage", "sqlite:///x.db"]
    rest = "-m study.run 'a study.yaml' --storage sqlite:///x.db"
    assert invocation("run", words) == f"'my venv/bin/python' {rest}"
    monkeypatch.chdir(bin_folder)
    assert invocation("run", words) == f"./python {rest}"
    elsewhere = bin_folder.parents[1] / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert invocation("run", words) == f"'{bin_folder}/python' {rest}"
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.defpath}")
    assert invocation("run", words) == f"python {rest}"


def test_the_console_script_is_named_as_the_shell_finds_it(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(bin_folder / "merge-study"), "run", "s.yaml"])
    assert invocation("run", ["s.yaml"]) == "'my venv/bin/merge-study' run s.yaml"
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.defpath}")
    assert invocation("plan", ["s.yaml"]) == "merge-study plan s.yaml"
