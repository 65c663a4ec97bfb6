"""Which questions are held out from the search."""

from collections.abc import Sequence

from objectives.tasks.task import Question


def held_out(question: Question, share: float) -> bool:
    """Whether a question is kept from the search: a property of its text and of nothing else."""
    return question.id < share * 2**64


def split(
    questions: Sequence[Question], share: float
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Search and held-out questions, about `share` of them held out."""
    kept = tuple(q for q in questions if not held_out(q, share))
    return kept, tuple(q for q in questions if held_out(q, share))
