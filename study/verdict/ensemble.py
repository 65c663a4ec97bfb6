"""The parents' ensemble: the mean of all parents' option probabilities, as one model.

M: parents, Q: held-out questions of one task, O: the options of a question.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.scoring import finite_or_none
from objectives.tasks.task import Question
from storage.answers import LogprobsQ
from storage.scores import HELD_OUT, ScoreStore
from study.setup.setup import Setup

from .scoreboard import ScoredContender


@dataclass(frozen=True)
class EnsembleScore:
    """The share of a task's held-out questions that the ensemble answers correctly."""

    score: float
    error: float
    """Standard error over questions; infinite for a single question."""

    def to_dict(self) -> dict[str, Any]:
        """Return the score as it is written to verdict.json."""
        return {"score": self.score, "error": finite_or_none(self.error)}


def ensemble_scores(
    setup: Setup, contenders: Sequence[ScoredContender], answers: ScoreStore
) -> dict[str, EnsembleScore]:
    """Return the ensemble's score by multiple-choice task.

    A task is left out if the option probabilities of a parent are not stored. Retrieval is left
    out because its answers are lists.
    """
    parents = [c.contender.record.id for c in contenders if c.contender.role == "parent"]
    replies = [answers.read_answers(parent, HELD_OUT) for parent in parents]
    kinds = {task.name: task.kind for task in setup.config.tasks}
    scores = {}
    for task in setup.held_out.tasks:
        stored = [reply.get(task.name) for reply in replies]
        logprobs = [s.logprobs_Q for s in stored if s is not None and s.logprobs_Q is not None]
        if kinds[task.name] == "multiple_choice" and logprobs and len(logprobs) == len(stored):
            right = [_score(q, i, logprobs) for i, q in enumerate(task.questions)]
            error = float(np.std(right, ddof=1)) / math.sqrt(len(right)) if right[1:] else math.inf
            scores[task.name] = EnsembleScore(float(np.mean(right)), error)
    return scores


def _score(question: Question, index: int, parents: Sequence[LogprobsQ]) -> float:
    """Return 1 if the label has the highest mean probability, its share if several options have.

    The mean ignores probabilities that are NaN.
    """
    logprobs_MO = np.array([logprobs_Q[index][0] for logprobs_Q in parents])
    means_O = np.nan_to_num(np.exp(logprobs_MO)).mean(axis=0)
    best_O = means_O == means_O.max()
    return float(best_O[question.options.index(question.labels[0])] / best_O.sum())
