"""Conversions between scores and stored scores."""

from collections.abc import Mapping

from objectives.sampling import Sample
from objectives.scoring import Scores, TaskScores
from storage.answers import StoredAnswers
from storage.scores import StoredScores


def scores_of(
    stored: Mapping[str, StoredScores], samples: Mapping[str, Sample] | None = None
) -> Scores:
    """Return stored scores as scores; `samples` has the tasks that were asked in part."""
    return Scores(
        {
            name: TaskScores(
                task.weight,
                task.scores_Q,
                task.soft_Q,
                task.non_finite,
                sample=(samples or {}).get(name),
            )
            for name, task in stored.items()
        }
    )


def answers_of(scores: Scores, engine: str, logprobs: bool) -> dict[str, StoredScores]:
    """Return scores for storage, with the answers of `engine`, and with `logprobs` if it is set."""
    return {
        name: StoredScores(
            task.weight,
            task.scores_Q,
            task.soft_Q,
            task.non_finite,
            _stored_answers(task, engine, logprobs),
        )
        for name, task in scores.tasks.items()
    }


def _stored_answers(task: TaskScores, engine: str, logprobs: bool) -> StoredAnswers | None:
    if not task.answers_Q:
        return None
    return StoredAnswers(
        engine,
        tuple(tuple(a.tokens for a in answers) for answers in task.answers_Q),
        tuple(tuple(a.logprobs for a in answers) for answers in task.answers_Q)
        if logprobs
        else None,
    )
