"""Which trials have answers to the held-out questions."""

from objectives.scoring import QuestionSet
from storage.scores import HELD_OUT, ScoreStore
from storage.trials import TrialRecord


def has_held_out(record: TrialRecord, answers: ScoreStore, held_out: QuestionSet) -> bool:
    """Whether a trial has answers to the held-out questions of every task."""
    if not held_out.tasks:
        return True
    stored = answers.read(record.id, HELD_OUT)
    return all(task.name in stored for task in held_out.tasks)
