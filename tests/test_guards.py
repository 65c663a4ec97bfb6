"""Checks that code and documentation agree, and that imports stay fast and modules short."""

import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from study.__main__ import COMMANDS
from study.config import genome as genome_config
from study.config import study as config
from study.config import task as task_config
from tests.support.paths import ROOT

ROOTS = ("study", "objectives", "storage")
SECTIONS = [
    value
    for value in {**vars(config), **vars(genome_config), **vars(task_config)}.values()
    if isinstance(value, type) and issubclass(value, config.Section) and value.model_fields
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_documented(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"study.{name}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1", "PATH": ""},
        cwd=ROOT,
    )
    page = (ROOT / "docs" / "commands.md").read_text()
    [row] = [line for line in page.split("\n") if line.startswith(f"| `python -m study.{name} ")]
    first = next(
        line.strip()
        for line in result.stdout.split("\n")[1:]
        if line.strip() and "Usage" not in line
    )
    assert first.rstrip(".") in row
    for option in re.findall(r"--[a-z-]+", result.stdout):
        if option not in ("--help", "--no-overwrite"):
            assert option in row or option == "--storage"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('study.{name}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'optuna', 'numpy', 'scipy', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip().endswith("[]")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_key_is_on_the_config_page(section: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    for name, field in section.model_fields.items():
        if not field.exclude:
            assert f"`{field.alias or name}`" in page or f"## {name}\n" in page, name


def test_every_package_is_in_the_architecture_and_has_a_docstring() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().split("## Packages")[1]
    for path in [path for name in ROOTS for path in (ROOT / name).rglob("__init__.py")]:
        if path.parent.parent in (ROOT, ROOT / "study", ROOT / "objectives"):
            name = path.parent.relative_to(ROOT).as_posix()
            assert f"`{name}`" in page or f"`{name}/`" in page, path
        assert path.read_text().startswith('"""'), path


def test_no_package_has_many_modules() -> None:
    for name in ROOTS:
        for path in (ROOT / name).rglob("__init__.py"):
            modules = [p for p in path.parent.glob("*.py") if p.name != "__init__.py"]
            assert len(modules) <= 12, path.parent


def test_no_module_is_long() -> None:
    for package in ROOTS:
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 300, path


def test_every_benchmark_can_be_imported() -> None:
    code = (
        "import pathlib, runpy\n"
        "for path in sorted(pathlib.Path('benchmarks').glob('*.py')):\n"
        "    runpy.run_path(str(path), run_name='imported')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
