"""Stored answers as scores, and scores as stored answers."""

from collections.abc import Mapping

from objectives.sampling import Sample
from objectives.scoring import Scores, TaskScores
from storage.answers import StoredAnswers
from storage.scores import StoredScores


def scores_of(
    stored: Mapping[str, StoredScores], samples: Mapping[str, Sample] | None = None
) -> Scores:
    """Stored answers as scores again; `samples` are of the tasks that were not asked whole."""
    drawn = samples or {}
    return Scores(
        {
            name: TaskScores(
                task.weight, task.scores_Q, task.soft_Q, task.non_finite, sample=drawn.get(name)
            )
            for name, task in stored.items()
        }
    )


def answers_of(scores: Scores, engine: str, logprobs: bool) -> dict[str, StoredScores]:
    """Scores as they are stored, with what `engine` said, and the `logprobs` of options or not."""
    return {
        name: StoredScores(
            task.weight, task.scores_Q, task.soft_Q, task.non_finite, _said(task, engine, logprobs)
        )
        for name, task in scores.tasks.items()
    }


def _said(task: TaskScores, engine: str, logprobs: bool) -> StoredAnswers | None:
    if not task.answers_Q:
        return None
    return StoredAnswers(
        engine,
        tuple(tuple(a.tokens for a in answers) for answers in task.answers_Q),
        tuple(tuple(a.logprobs for a in answers) for answers in task.answers_Q)
        if logprobs
        else None,
    )
