"""The parents' ensemble: what all parents answer together, as a merge would have to answer alone.

Q: held-out questions, O: a question's options.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objectives.tasks.task import Question
from storage.answers import LogprobsQ
from storage.scores import HELD_OUT, Answers
from study.setup.setup import Setup

from .scoreboard import ScoredContender


@dataclass(frozen=True)
class TaskScore:
    value: float
    error: float
    """Standard error over questions."""


def ensemble(
    setup: Setup, shown: Sequence[ScoredContender], answers: Answers
) -> dict[str, TaskScore]:
    """For each multiple-choice task the share of held-out questions on which the mean of the
    parents' option probabilities is highest at the label; without the tasks where a parent's
    probabilities are not stored. Retrieval is left out: its answers are lists."""
    parents = [line.contender.record.id for line in shown if line.contender.role == "parent"]
    replies = [answers.replies(parent, HELD_OUT) for parent in parents]
    kinds = {task.name: task.kind for task in setup.config.tasks}
    found = {}
    for task in setup.held_out.tasks:
        said = [reply.get(task.name) for reply in replies]
        logprobs = [s.logprobs_Q for s in said if s is not None and s.logprobs_Q is not None]
        if kinds[task.name] == "multiple_choice" and logprobs and len(logprobs) == len(said):
            right = [_right(q, i, logprobs) for i, q in enumerate(task.questions)]
            error = float(np.std(right, ddof=1)) / math.sqrt(len(right)) if right[1:] else math.inf
            found[task.name] = TaskScore(float(np.mean(right)), error)
    return found


def _right(question: Question, index: int, parents: Sequence[LogprobsQ]) -> float:
    """1 where the label's mean probability is the highest, a tie counting as its share.

    A parent whose answer was not a number has no voice.
    """
    logprobs_MO = np.array([logprobs_Q[index][0] for logprobs_Q in parents])
    means_O = np.nan_to_num(np.exp(logprobs_MO)).mean(axis=0)
    best_O = means_O == means_O.max()
    return float(best_O[question.options.index(question.labels[0])] / best_O.sum())
