"""A study whose trials take a chosen time: the real worker on a real database, with an engine that
sleeps, and scores that are a function of the recipe.

    python -m tests.support.sleeping_study URL [--trials 60] [--seconds 0.02] [--population 5]
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from objectives.engines.engine import Answer, Prompt
from objectives.errors import EngineError
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.scoring import QuestionSet, Scores, TaskScores
from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import RunOptions
from study.config.study import StudyConfig
from study.search.genome import MergeGenome
from study.search.state import Evaluation, SearchState, Slot
from study.setup.engine import EngineChoice
from study.setup.setup import Setup
from study.worker.join import join_study
from study.worker.observe import create_monitors

NAME = "tiny"
LAYERS = 8
QUESTIONS, WIDE_QUESTIONS = 40, 2250


class SleepingEngine:
    """An engine that keeps the recipe, and sleeps instead of answering."""

    def __init__(self, seconds: float, fails: frozenset[int] = frozenset()) -> None:
        self.recipe: MergeRecipe | None = None
        self._seconds, self._fails, self._loads = seconds, fails, 0

    def load(self, recipe: MergeRecipe) -> None:
        self._loads += 1
        if self._loads in self._fails:
            raise EngineError("asked to fail")
        self.recipe = recipe

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def sleep(self) -> None:
        time.sleep(self._seconds)


class RecipeQuestions(QuestionSet):
    """Score a recipe by its values: the mean squared distance from 1/3 lowers the score."""

    def __init__(self, count: int) -> None:
        nothing: Any = None
        super().__init__([], nothing)
        self.tasks, self._count = (SimpleNamespace(name="distance"),), count

    def evaluate(self, engine: Any, samples: Any = None) -> Scores:
        engine.sleep()
        values = [w for rows in engine.recipe.values.values() for k in rows for m in k for w in m]
        far = sum((value - 1 / 3) ** 2 for value in values) / len(values)
        soft = np.full(self._count, math.exp(-far), dtype=np.float32)
        right = (np.arange(self._count) < self._count * math.exp(-far)).astype(np.float32)
        return Scores({"distance": TaskScores(1.0, (right + soft) / 2, soft, 0)})

    @property
    def questions(self) -> int:
        return self._count


class TinySetup(Setup):
    def fingerprint(self, population: int, warm_start: Any = None) -> dict[str, str]:
        return {"population": str(population), "seed": str(self.config.study.seed)}


@dataclass(frozen=True)
class TinyChoice(EngineChoice):
    seconds: float = 0.0
    fails: frozenset[int] = frozenset()

    def start(self, sources: Sources, longest: int) -> SleepingEngine:
        return SleepingEngine(self.seconds, self.fails)


def tiny_dict(trials: int, population: int | None, wide: bool, **study: Any) -> dict[str, Any]:
    """Return a study with 8 parameters (2 models, 2 blocks), or 48 (3 models, 8) if `wide`."""
    return {
        "genome": {
            "models": ["a", "b", "c"] if wide else ["a", "b"],
            "base_model": "base",
            "merge_method": "dare_ties",
            "layer_granularity": 1 if wide else 4,
        },
        "tasks": [{"name": "distance", "kind": "multiple_choice", "data": "none"}],
        "search": {"soft": 0, "questions": 1},
        "study": {"name": NAME, "trials": trials, "population": population} | study,
    }


def tiny_config(
    trials: int, population: int | None = 5, wide: bool = False, **study: Any
) -> StudyConfig:
    return StudyConfig.model_validate(tiny_dict(trials, population, wide, **study))


def tiny_setup(config: StudyConfig) -> Setup:
    genome = MergeGenome(config.genome, config.space, LAYERS, config.study.seed)
    nothing: Any = None
    search = RecipeQuestions(WIDE_QUESTIONS if len(genome.space) == 48 else QUESTIONS)
    return TinySetup(config, {}, nothing, genome, search, RecipeQuestions(QUESTIONS // 2))


def run(
    url: str,
    config: StudyConfig,
    seconds: float = 0.0,
    deadline: float = math.inf,
    fails: frozenset[int] = frozenset(),
) -> bool:
    """Run a worker in this process; return whether the budget is reached."""
    choice = TinyChoice("tiny", "cpu", "float32", 1, seconds=seconds, fails=fails)
    with (
        Interrupts() as interrupts,
        join_study(tiny_setup(config), url, choice, interrupts) as worker,
        create_monitors(worker, RunOptions()) as worker.monitor,
    ):
        return worker.search(deadline)


def start(url: str, config: StudyConfig, seconds: float = 0.0) -> BaseProcess:
    """Start a worker in another process."""
    here, existing = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [here, existing])
    )  # for the fork server too
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports torch once for all workers
    process = context.Process(target=run, args=(url, config, seconds))
    process.start()
    return process


def finished_trials(url: str) -> dict[Slot, Evaluation]:
    """Return the finished search trials of a study."""
    database = open_storage(url, create=False)
    try:
        return SearchState.of(Trials(database, find_study(database, NAME)).all()).finished
    finally:
        database.engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--population", type=int, default=5)
    arguments = parser.parse_args()
    try:
        config = tiny_config(arguments.trials, arguments.population)
        run(arguments.url, config, arguments.seconds)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


if __name__ == "__main__":
    main()
