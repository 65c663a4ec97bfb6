"""Runs the engine for one trial: a merge that is scored, or a step of an ascent."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from objectives.engines.engine import Engine
from objectives.errors import EngineError, ScorerError
from objectives.merge.recipe import PathRecipe
from objectives.sampling import Sample
from objectives.scoring import Scores, finite_or_none
from storage.gradients import StoredGradient
from storage.scores import StoredScores
from storage.trials import KIND, SLOT
from study.cli.interrupts import Interrupts
from study.search.ascent.jobs import VALIDATION_LOSS, CheckpointJob, StepJob
from study.search.jobs import Job
from study.search.paths.genome import PathGenome
from study.search.state import CUT_OFF, LOSS
from study.search.stored_scores import answers_of
from study.setup.setup import Setup

if TYPE_CHECKING:
    from .steps import StepTaker

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
Failure: TypeAlias = EngineError | ScorerError
"""An error after which a trial is retried."""


class Failures:
    """Counts the failures since the last success."""

    def __init__(self) -> None:
        self._count = 0

    def reset(self) -> None:
        """Record a success."""
        self._count = 0

    def add(self, error: Failure) -> None:
        """Record a failure. Raises EngineError or ScorerError if it is the third in a row."""
        self._count += 1
        if self._count == FAILURES_IN_A_ROW:
            kind = ScorerError if isinstance(error, ScorerError) else EngineError
            raise kind(f"{FAILURES_IN_A_ROW} trials failed in a row; the last error: {error}")


@dataclass(frozen=True)
class Outcome:
    """What is stored with a finished trial."""

    value: float
    tasks: Mapping[str, float]
    """The mean of each task."""
    result: Mapping[str, object]
    answers: Mapping[str, StoredScores]
    gradient: StoredGradient | None = None


class Evaluator:
    """Evaluates the trials of one worker. A signal may interrupt an evaluation."""

    def __init__(
        self, setup: Setup, engine: Engine, engine_signature: str, interrupts: Interrupts
    ) -> None:
        self._setup, self._engine, self._engine_signature = setup, engine, engine_signature
        self._interrupts = interrupts

    def outcome(self, job: Job, ask_time: float, samples: Mapping[str, Sample] | None) -> Outcome:
        """Evaluate a trial that asks the questions of `samples`, or all of them.

        `ask_time` is the time of `time.perf_counter` at which the worker began to look for the job.

        Raises EngineError, ScorerError and TaskError.
        """
        with self._interrupts.allowed():
            if isinstance(job, StepJob):
                return self._step(job, ask_time)
            return self._scored(job, ask_time, samples)

    def _scored(self, job: Job, ask_time: float, samples: Mapping[str, Sample] | None) -> Outcome:
        started = time.perf_counter()
        self._engine.load(job.recipe)
        merged = time.perf_counter()
        scores = self._setup.search.evaluate(self._engine, samples)
        genome, penalty = self._setup.genome, 0.0
        if isinstance(genome, PathGenome) and isinstance(job.recipe, PathRecipe):
            penalty = genome.penalty(job.recipe) if SLOT in job.attributes else 0.0
        if scores.non_finite:
            log.warning(
                "trial gave NaN or infinity in %d answers: they count as wrong", scores.non_finite
            )
        result = self._result(scores, penalty)
        if isinstance(job, CheckpointJob):
            result[VALIDATION_LOSS] = self._steps.validation_loss()
        seconds = {"ask": started - ask_time, "merge": merged - started}
        result["seconds"] = _rounded(seconds | {"score": time.perf_counter() - merged})
        tasks = {name: task.mean for name, task in scores.tasks.items()}
        answers = answers_of(scores, self._engine_signature, KIND in job.attributes)
        return Outcome(scores.value, tasks, result, answers)

    def _step(self, job: StepJob, ask_time: float) -> Outcome:
        started = time.perf_counter()
        step = self._steps.take(job)
        result = {
            "objective": step.probability,
            LOSS: step.loss,
            "asked": step.asked,
            "questions": self._setup.search.questions,
            "seconds": _rounded({"ask": started - ask_time, "step": time.perf_counter() - started}),
        }
        return Outcome(step.probability, step.tasks, result, {}, step.gradient)

    @cached_property
    def _steps(self) -> "StepTaker":
        from .steps import StepTaker  # a search without gradients does not need its imports

        engine: Any = self._engine
        return StepTaker(engine, self._setup.rules)

    def _result(self, scores: Scores, penalty: float) -> dict[str, object]:
        """Return what is stored with a trial beside its score.

        The penalty lowers its rank, not its score.
        """
        soft = self._setup.config.search.soft
        cut_off = {n: [t.cut_off, t.asked] for n, t in scores.tasks.items() if t.cut_off}
        return {
            "error": finite_or_none(scores.error),
            "soft": scores.soft,
            "objective": soft * scores.soft + (1 - soft) * scores.value - penalty,
            "asked": scores.asked,
            "questions": self._setup.search.questions,
            "sampling_error": finite_or_none(scores.sampling_error),
            "broken": scores.non_finite,
        } | ({CUT_OFF: cut_off} if cut_off else {})


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {part: round(value, 4) for part, value in seconds.items()}
