"""Split questions into those of the search and held-out ones."""

from collections.abc import Sequence

from objectives.tasks.task import Question


def held_out(question: Question, share: float) -> bool:
    """Return whether a question is held out, which depends only on its text and on `share`."""
    return question.id < share * 2**64


def split(
    questions: Sequence[Question], share: float
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Return the search questions and the held-out questions, about a fraction `share` of all."""
    search = tuple(q for q in questions if not held_out(q, share))
    return search, tuple(q for q in questions if held_out(q, share))
