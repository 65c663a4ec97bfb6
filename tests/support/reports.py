"""A verdict and a report in which all names and all scores are equal."""

from datetime import UTC, datetime

import numpy as np

from objectives.scoring import Scores, TaskScores
from storage.trials import TrialRecord, TrialState
from study.reporting.answer_changes import Example, NeverRight, Selection
from study.reporting.data import MergeParameters, QuestionCounts, ReportData, TrialCounts
from study.reporting.provenance import ModelReference, Provenance
from study.reporting.search_statistics import TimeSpent
from study.search.contenders import Contender, Role
from study.search.history import BaselineScore, ScoreHistory
from study.verdict.comparison import Comparison
from study.verdict.judge import Judgement
from study.verdict.scoreboard import ScoredContender

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The date of a page."""


def scored(name: str, value: float, role: Role = "parent") -> ScoredContender:
    """Return a contender whose only task has this name and this score in both splits."""
    scores_Q = np.array([value, value, value], np.float32)
    record = TrialRecord(1, 0, TrialState.COMPLETE, {}, value, {"baseline": name})
    scores = Scores({name: TaskScores(1.0, scores_Q, scores_Q)})
    prefix = "parent " if role == "parent" else ""
    return ScoredContender(Contender(role, f"{prefix}{name}", record), scores, scores)


def judgement(name: str, value: float = 0.5) -> Judgement:
    """Return a verdict on one final merge, compared with one reference."""
    final = scored(name, value, "top")
    comparison = Comparison(name, name, value, value / 2, value / 3, None, {name: 0.5})
    return Judgement([final], [name], "held-out", final, [], [name], [comparison], {}, name)


def report(name: str, value: float = 0.5) -> ReportData:
    """Return a report in which study, models, task and questions have this name."""
    models = [name, f"{name}2"]
    selection = Selection(1, 1, [Example(name, name)])
    return ReportData(
        study=name,
        identity="0",
        provenance=Provenance("1.2.3", f"python {name}", [ModelReference(name, name)]),
        method=name,
        models=models,
        base=name,
        tasks={name: 1.0},
        questions=QuestionCounts({name: 3}, {name: 3}),
        trials=TrialCounts(finished=1, budget=2, failed=0, population=4, generation=0),
        verdict=judgement(name, value),
        unscored=[name],
        scores=ScoreHistory(
            [value, value],
            [0, 0],
            {name: [value, value]},
            [BaselineScore("parent", name, value)],
        ),
        convergence=[],
        importance={name: 0.5},
        seconds=TimeSpent({}, {}, {"ask": [], "merge": [], "score": []}),
        merge=MergeParameters(0, 1.0, models, [name], {"weight": [[value], [value]]}, 0, 2),
        never_right=NeverRight(1, {name: selection}),
        answer_changes=None,
    )
