"""Tests of the scores that a verdict requires."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.database.database import open_storage
from storage.scores import ScoreStore
from study.config.study import StudyConfig
from study.search.genome import MergeGenome
from study.setup.setup import Setup
from study.verdict.judge import judge


def setup_of(method: str, models: list[str], base: str | None) -> Setup:
    """Return a study of this method that needs no files."""
    genome = {"models": models, "base_model": base, "merge_method": method, "layer_granularity": 4}
    task = {"name": "choice", "kind": "multiple_choice", "data": "none"}
    config = StudyConfig.model_validate(
        {"genome": genome, "tasks": [task], "study": {"name": "s", "trials": 1}}
    )
    questions: Any = SimpleNamespace(tasks=[SimpleNamespace(name="choice", questions=range(30))])
    nothing: Any = None
    genome = MergeGenome(config.genome, config.space, 8)
    return Setup(config, {}, nothing, genome, questions, questions)


@pytest.mark.parametrize(
    ("method", "models", "base", "uniform"),
    [("task_arithmetic", ["a", "b"], "base", True), ("passthrough", ["a"], None, False)],
)
def test_a_best_uniform_merge_is_required_only_if_the_method_has_uniform_merges(
    tmp_path: Path, method: str, models: list[str], base: str | None, uniform: bool
) -> None:
    answers = ScoreStore(open_storage(f"sqlite:///{tmp_path}/s.db"))
    judgement = judge(setup_of(method, models, base), [], answers)
    assert ("the best uniform merge" in judgement.missing) == uniform
    assert "the best trial" in judgement.missing
    assert judgement.rule == "not scored yet"
