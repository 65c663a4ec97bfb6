"""The verdict on a study, from its stored answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from storage.scores import ScoreStore
from storage.trials import TrialRecord
from study.search.ascent.jobs import CHECKPOINT, LAST_STEPS
from study.search.contenders import REFERENCES, Role
from study.setup.setup import Setup
from study.setup.tasks import MIN_HELD_OUT, few_held_out

from .comparison import LEVEL, Comparison, compare
from .ensemble import EnsembleScore, ensemble_scores
from .scoreboard import ContenderSummary, ScoredContender, scored_contenders
from .selection import PREFERENCE, best_parent, final_merge
from .wording import inconclusive_text, pending_text, verdict_text

_UNIFORM = {"uniform": "best uniform merge"}
_REQUIRED = {"top": "mean of the top trials", "best": "best trial"} | _UNIFORM
"""The contenders without which there is no verdict, by role."""
_REQUIRED_BY_GRADIENT = {"top": CHECKPOINT, "mean": LAST_STEPS} | _UNIFORM
"""The same for a search by gradient."""
Rule = Literal["held-out", "too few held-out questions", "not scored yet"]


@dataclass(frozen=True)
class Judgement:
    """The verdict on a study, based on the scores that are stored so far."""

    contenders: Sequence[ScoredContender]
    tasks: Sequence[str]
    rule: Rule
    """The rule that selected the final merge, or the reason why there is none."""
    final: ScoredContender | None
    missing: Sequence[str]
    """Scores that the comparison needs and that are not stored yet."""
    lacking: Sequence[str]
    """Contenders whose trials were never asked the search questions of some task."""
    comparisons: Sequence[Comparison]
    ensemble: dict[str, EnsembleScore]
    """The parents' ensemble on the held-out questions, by multiple-choice task."""
    sentence: str

    @cached_property
    def against_final(self) -> list[Comparison]:
        """The comparisons of the final merge."""
        name = self.final.contender.name if self.final else None
        return [c for c in self.comparisons if c.contender == name]

    @cached_property
    def summaries(self) -> list[ContenderSummary]:
        """The contenders' scores as plain numbers."""
        return [c.summary(self.tasks) for c in self.contenders]

    def is_final(self, name: str) -> bool:
        """Return whether the contender of this name is the final merge."""
        return self.final is not None and self.final.contender.name == name

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as it is written to verdict.json and report.json."""
        return {
            "sentence": self.sentence,
            "rule": self.rule,
            "final": _final_dict(self.final),
            "level": LEVEL,
            "missing": list(self.missing),
            "lacking": list(self.lacking),
            "candidates": [asdict(summary) for summary in self.summaries],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "parents_ensemble": {task: s.to_dict() for task, s in self.ensemble.items()},
        }


def judge(setup: Setup, records: Sequence[TrialRecord], answers: ScoreStore) -> Judgement:
    """Return the verdict on the stored scores. Nothing is scored."""
    tasks = [task.name for task in setup.config.tasks]
    contenders = scored_contenders(records, setup.genome, answers)
    missing = _missing(setup, contenders)
    few = few_held_out(setup.config, setup.held_out)
    role: Role = "top" if setup.genome.space else "uniform"  # without parameters: the only merge
    top = next((c for c in contenders if c.contender.role == role), None)
    rule: Rule
    final: ScoredContender | None
    comparisons: list[Comparison] = []
    if top is None or (missing and not few):
        rule, final, text = "not scored yet", None, pending_text(setup.config.file, missing)
    elif few:
        rule, final = "too few held-out questions", top
        text = inconclusive_text(top.contender, few, MIN_HELD_OUT)
    else:
        rule, final = "held-out", final_merge(contenders)
        comparisons = _comparisons(setup, contenders)
        own = [c for c in comparisons if c.contender == final.contender.name]
        text = verdict_text(final.contender, own, best_parent(contenders))
    return Judgement(
        contenders,
        tasks,
        rule,
        final,
        missing,
        _lacking(contenders, tasks),
        comparisons,
        ensemble_scores(setup, contenders, answers),
        text,
    )


def _comparisons(setup: Setup, contenders: Sequence[ScoredContender]) -> list[Comparison]:
    """Compare every contender that can be final with every reference."""
    scores = {
        c.contender.name: {name: task.scores_Q for name, task in c.held_out.tasks.items()}
        for c in contenders
        if c.held_out is not None
    }
    names = [
        c.contender.name for role in PREFERENCE for c in contenders if c.contender.role == role
    ]
    references = [c.contender.name for c in contenders if c.contender.role in REFERENCES]
    return compare(
        {name: scores[name] for name in names if name in scores},
        {name: scores[name] for name in references},
        {task.name: task.weight for task in setup.config.tasks if task.weight},
        [task.name for task in setup.config.tasks if task.kind == "multiple_choice"],
    )


def _missing(setup: Setup, contenders: Sequence[ScoredContender]) -> list[str]:
    """Return the names of the scores that the comparison needs and that are not stored."""
    baselines = setup.genome.baselines()
    roles = {c.contender.role for c in contenders}
    if all(baseline.kind != "uniform" for baseline in baselines):
        roles.add("uniform")  # the method has no uniform merges
    required = _REQUIRED_BY_GRADIENT if setup.rules.by_gradient else _REQUIRED
    required = required if setup.genome.space else _UNIFORM
    missing = [f"the {name}" for role, name in required.items() if role not in roles]
    scored = [c.contender.record.baseline for c in contenders]
    missing += [
        f"parent {b.name}" for b in baselines if b.kind == "parent" and b.name not in scored
    ]
    for c in contenders:
        stored = c.held_out.tasks if c.held_out else {}
        unscored = [task.name for task in setup.held_out.tasks if task.name not in stored]
        of = f" of {', '.join(unscored)}" if stored else ""
        missing += [f"{c.name} on the held-out questions{of}"] if unscored else []
    return missing


def _lacking(contenders: Sequence[ScoredContender], tasks: Sequence[str]) -> list[str]:
    return [
        f"{c.name} on the search questions of {', '.join(unasked)}"
        for c in contenders
        if (unasked := [task for task in tasks if task not in c.search.tasks])
    ]


def _final_dict(final: ScoredContender | None) -> dict[str, Any] | None:
    if final is None:
        return None
    contender = final.contender
    return {"name": contender.name, "role": contender.role, "trial": contender.record.number}
