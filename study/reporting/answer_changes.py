"""Questions that every merge answers wrongly, and questions that the final merge answers better or
worse than the best parent.

Q: questions of one task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.scoring import Scores
from objectives.tasks.task import Asked
from storage.scores import SEARCH, ScoreStore
from storage.trials import TrialRecord

MAX_EXAMPLES = 6
"""Questions of a selection whose text is printed."""
_MAX_LENGTH = 220
"""Characters of a question that are printed."""


@dataclass(frozen=True)
class Example:
    """A question with its right answer."""

    text: str
    right: str


@dataclass(frozen=True)
class Selection:
    """Some questions of a task; the fields are the keys of report.json."""

    count: int
    of: int
    """The number of the task's questions."""
    shown: Sequence[Example]
    """The first MAX_EXAMPLES of the selected questions."""


@dataclass(frozen=True)
class NeverRight:
    """The search questions that every merge answers wrongly."""

    merges: int
    tasks: Mapping[str, Selection]


@dataclass(frozen=True)
class TaskChanges:
    """The questions of a task on which the final merge scores higher or lower than a parent."""

    gained: Selection
    lost: Selection


@dataclass(frozen=True)
class AnswerChanges:
    """The questions on which the final merge and the best parent differ."""

    parent: str
    split: str
    """The questions that are compared: `held-out`, or `search` if those are not scored."""
    tasks: Mapping[str, TaskChanges]


def never_right(
    tasks: Sequence[Asked], records: Sequence[TrialRecord], answers: ScoreStore, study_id: int
) -> NeverRight:
    """Return the search questions on which every complete merge of the study scores 0."""
    merges = {r.id for r in records if r.complete and r.kind not in ("base", "parent")}
    best_Q: dict[str, NDArray[np.float32]] = {}
    for trial, stored in answers.read_all(study_id, SEARCH).items():
        for name, task in stored.items() if trial in merges else ():
            best = best_Q.get(name)
            best_Q[name] = task.scores_Q if best is None else np.fmax(best, task.scores_Q)
    return NeverRight(
        len(merges),
        {
            task.name: _selection(task, best_Q[task.name] == 0)
            for task in tasks
            if task.name in best_Q
        },
    )


def changes_by_task(
    tasks: Sequence[Asked], parent: Scores, merge: Scores
) -> dict[str, TaskChanges]:
    """Return by task the questions on which the merge scores higher, and lower, than the parent."""
    changes = {}
    for task in tasks:
        if task.name in parent.tasks and task.name in merge.tasks:
            difference_Q = merge.tasks[task.name].scores_Q - parent.tasks[task.name].scores_Q
            changes[task.name] = TaskChanges(
                gained=_selection(task, difference_Q > 0), lost=_selection(task, difference_Q < 0)
            )
    return changes


def _selection(task: Asked, selected_Q: NDArray[np.bool_]) -> Selection:
    selected = [q for q, is_in in zip(task.questions, selected_Q, strict=True) if is_in]
    return Selection(
        int(selected_Q.sum()),
        len(selected_Q),
        [
            Example(_shortened(q.text), ", ".join(map(q.answer, q.labels)))
            for q in selected[:MAX_EXAMPLES]
        ],
    )


def _shortened(text: str) -> str:
    """Return the beginning and the end of a text: a question often stands between long
    instructions and options."""
    line = " ".join(text.split())
    if len(line) <= _MAX_LENGTH:
        return line
    half = _MAX_LENGTH // 2
    return f"{line[:half].rstrip()} … {line[-half:].lstrip()}"
