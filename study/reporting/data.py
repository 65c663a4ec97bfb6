"""The data of a study's report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from objectives.scoring import Scores
from storage.gradients import GradientStore
from storage.identity import study_identity
from storage.scores import ScoreStore
from storage.studies import stored_fingerprint
from storage.trials import TrialRecord, Trials
from study.monitors.cut_off_answers import CutOffShare, cut_off_shares, explanation
from study.search.ascent.history import AscentHistory
from study.search.history import ScoreHistory
from study.search.state import SearchState, best_merge
from study.setup.setup import Setup
from study.verdict.advice import advice
from study.verdict.judge import Judgement
from study.verdict.scoreboard import ScoredContender

from .answer_changes import AnswerChanges, NeverRight, changes_by_task, never_right
from .parameters import MergeParameters, PathParameters, merge_parameters, path_parameters
from .provenance import Provenance, provenance
from .search_statistics import Distribution, TimeSpent, convergence, importance, time_spent


@dataclass(frozen=True)
class QuestionCounts:
    """The number of questions by task."""

    search: Mapping[str, int]
    held_out: Mapping[str, int]


@dataclass(frozen=True)
class TrialCounts:
    """The search trials of a study; `failed` counts its other trials too."""

    finished: int
    budget: int
    failed: int
    population: int
    generation: int


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows. `to_dict` returns the contents of report.json."""

    study: str
    identity: str | None
    provenance: Provenance
    method: str
    models: Sequence[str]
    base: str | None
    tasks: Mapping[str, float]
    """Weights by name."""
    questions: QuestionCounts
    trials: TrialCounts
    verdict: Judgement
    unscored: Sequence[str]
    """Names of final merges that are not scored yet."""
    scores: ScoreHistory
    convergence: Sequence[Distribution]
    importance: Mapping[str, float] | None
    """By parameter, the largest first; None if there are too few trials."""
    seconds: TimeSpent
    merge: MergeParameters | None
    never_right: NeverRight
    answer_changes: AnswerChanges | None
    path: PathParameters | None = None
    """The path of a study of kind `layers`."""
    ascents: AscentHistory | None = None
    """The losses of a search by gradient."""
    cut_off: Mapping[str, CutOffShare] = field(default_factory=dict)
    """By task, the trial with the most answers that reached max_tokens before they were complete,
    if these are more than 2%."""

    advice: Sequence[str] = ()
    """What the scores say about the search and the models; see study/verdict/advice.py."""

    @property
    def cut_off_text(self) -> str:
        """The warning about such answers."""
        return explanation(self.cut_off)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of report.json; its keys are a public format."""
        return {
            "study": self.study,
            "identity": self.identity,
            "provenance": asdict(self.provenance),
            "method": self.method,
            "models": list(self.models),
            "base": self.base,
            "tasks": dict(self.tasks),
            "questions": asdict(self.questions),
            "trials": asdict(self.trials),
            "verdict": self.verdict.to_dict(),
            "unscored": list(self.unscored),
            "scores": self.scores.to_dict(),
            "convergence": [asdict(distribution) for distribution in self.convergence],
            "importance": None if self.importance is None else dict(self.importance),
            "seconds": asdict(self.seconds),
            "merge": None if self.merge is None else asdict(self.merge),
            "never_right": asdict(self.never_right),
            "flips": None if self.answer_changes is None else asdict(self.answer_changes),
            "advice": list(self.advice),
            "cut_off": {task: asdict(share) for task, share in self.cut_off.items()},
            **({} if self.path is None else {"path": asdict(self.path)}),
            **({} if self.ascents is None else {"gradient": self.ascents.to_dict()}),
        }


def report_data(
    setup: Setup, trials: Trials, answers: ScoreStore, judgement: Judgement
) -> ReportData:
    """Return the data of a study's report. Nothing is scored, and the same database gives the same
    data."""
    records = trials.all()
    population = int(stored_fingerprint(trials.study)["population"])
    gradients = GradientStore(trials.database, trials.study._study_id)
    replay = setup.sampler(trials.study, population, gradients).replay
    state = SearchState.of(records, population)
    merge = _reported_merge(judgement, records)
    scores = ScoreHistory.of(records)
    return ReportData(
        study=setup.config.name,
        identity=study_identity(trials.database, trials.study),
        provenance=provenance(setup, trials.database.url),
        method=setup.config.genome.merge_method,
        models=setup.genome.models,
        base=setup.genome.base,
        tasks={task.name: task.weight for task in setup.config.tasks},
        questions=QuestionCounts(
            {task.name: len(task.questions) for task in setup.search.tasks},
            {task.name: len(task.questions) for task in setup.held_out.tasks},
        ),
        trials=TrialCounts(
            finished=len(state.finished),
            budget=setup.config.study.trials,
            failed=sum(record.failed for record in records),
            population=population,
            generation=state.generation,
        ),
        verdict=judgement,
        cut_off=cut_off_shares(records),
        unscored=setup.rules.jobs(replay).unscored(records),
        scores=scores,
        convergence=convergence(state, replay) if setup.genome.space else [],
        importance=importance(trials.frozen()),
        seconds=time_spent(records),
        merge=None if merge is None else merge_parameters(merge, setup.genome),
        path=None if merge is None else path_parameters(merge, setup.genome, records),
        never_right=never_right(setup.search.tasks, records, answers, trials.study._study_id),
        answer_changes=_answer_changes(setup, judgement),
        ascents=AscentHistory.of(records),
        advice=advice(setup, judgement, scores),
    )


def _reported_merge(judgement: Judgement, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the final merge, or the best merge so far if there is no final one yet."""
    return judgement.final.contender.record if judgement.final else best_merge(records)


def _answer_changes(setup: Setup, judgement: Judgement) -> AnswerChanges | None:
    """Compare the final merge with the best parent, on the held-out questions if all of them are
    scored there, else on the search questions."""
    final = judgement.final
    parents = [c for c in judgement.contenders if c.contender.role == "parent"]
    if final is None or not parents:
        return None
    held_out = all(c.held_out is not None for c in (final, *parents))

    def scores(scored: ScoredContender) -> Scores:
        chosen = scored.held_out if held_out else scored.search
        assert chosen is not None
        return chosen

    parent = max(parents, key=lambda c: scores(c).value)
    tasks = (setup.held_out if held_out else setup.search).tasks
    return AnswerChanges(
        parent.contender.name,
        "held-out" if held_out else "search",
        changes_by_task(tasks, scores(parent), scores(final)),
    )
