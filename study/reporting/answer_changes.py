"""Which questions no merge gets right, and which change sides between the best parent and the final
merge.

Q: questions of one task.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.scoring import Scores
from objectives.tasks.task import Asked
from storage.scores import SEARCH, ScoreStore
from storage.trials import TrialRecord

SHOWN = 6
"""Questions of a kind and task whose text is shown."""
_LONGEST = 220


def never_right(
    tasks: Sequence[Asked], records: Sequence[TrialRecord], answers: ScoreStore, study_id: int
) -> dict[str, Any]:
    """For each task the search questions that every merge has wrong, and the merges counted."""
    merges = {r.id for r in records if r.complete and r.kind not in ("base", "parent")}
    best_Q: dict[str, NDArray[np.float32]] = {}
    for trial, stored in answers.read_all(study_id, SEARCH).items():
        for name, task in stored.items() if trial in merges else ():
            known = best_Q.get(name)
            best_Q[name] = task.scores_Q if known is None else np.fmax(known, task.scores_Q)
    found = {
        task.name: _named(task, best_Q[task.name] == 0) for task in tasks if task.name in best_Q
    }
    return {"merges": len(merges), "tasks": found}


def flips(tasks: Sequence[Asked], parent: Scores, merge: Scores) -> dict[str, Any]:
    """For each task the questions that the merge has more right than the parent, and less."""
    found: dict[str, Any] = {}
    for task in tasks:
        if task.name in parent.tasks and task.name in merge.tasks:
            gained_Q = merge.tasks[task.name].scores_Q - parent.tasks[task.name].scores_Q
            found[task.name] = {
                "gained": _named(task, gained_Q > 0),
                "lost": _named(task, gained_Q < 0),
            }
    return found


def _named(task: Asked, picked_Q: NDArray[np.bool_]) -> Mapping[str, Any]:
    """How many of the questions are picked, and the text of the first of them."""
    some = [q for q, picked in zip(task.questions, picked_Q, strict=True) if picked][:SHOWN]
    return {
        "count": int(picked_Q.sum()),
        "of": len(picked_Q),
        "shown": [
            {"text": _short(q.text), "right": ", ".join(map(q.answer, q.labels))} for q in some
        ],
    }


def _short(text: str) -> str:
    """The beginning and the end: a question often stands between long instructions and options."""
    line = " ".join(text.split())
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2
    return f"{line[:half].rstrip()} … {line[-half:].lstrip()}"
