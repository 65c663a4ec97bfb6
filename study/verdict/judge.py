"""From stored answers to the verdict: which merge is final, and what it is better than."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from objectives.scoring import finite_or_none
from storage.scores import Answers
from storage.trials import TrialRecord
from study.search.contenders import PREFERENCE
from study.setup.setup import Setup
from study.setup.tasks import ENOUGH, few_held_out

from .comparison import LEVEL, Comparison, choose, compare
from .ensemble import TaskScore, ensemble
from .scoreboard import ScoredContender, scored_contenders, whole
from .wording import not_yet, sentence, untold

Rule = Literal["held-out", "too few held-out questions", "not scored yet"]


@dataclass(frozen=True)
class Judgement:
    """What a study comes to, as far as it is scored."""

    contenders: Sequence[ScoredContender]
    tasks: Sequence[str]
    rule: Rule
    """What chose the final merge, or why there is none."""
    final: ScoredContender | None
    missing: Sequence[str]
    """What is not scored yet."""
    lacking: Sequence[str]
    """Trials that were never asked some task's search questions."""
    comparisons: Sequence[Comparison]
    ensemble: dict[str, TaskScore]
    """The parents' ensemble on the held-out questions, by multiple-choice task."""
    sentence: str

    @cached_property
    def against_final(self) -> list[Comparison]:
        """The comparisons of the final merge."""
        name = self.final.contender.name if self.final else None
        return [c for c in self.comparisons if c.contender == name]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sentence": self.sentence,
            "rule": self.rule,
            "final": None if self.final is None else _named(self.final),
            "level": LEVEL,
            "missing": list(self.missing),
            "lacking": list(self.lacking),
            "candidates": [_named(line) | _scores(line, self.tasks) for line in self.contenders],
            "comparisons": [
                {
                    "candidate": c.contender,
                    "reference": c.reference,
                    "difference": c.difference,
                    "error": c.error,
                    "margin": c.margin,
                    "shown": c.shown,
                    "more_questions": c.more,
                    "mcnemar_p": dict(c.p),
                }
                for c in self.comparisons
            ],
            "parents_ensemble": {
                task: {"score": score.value, "error": finite_or_none(score.error)}
                for task, score in self.ensemble.items()
            },
        }


def judge(setup: Setup, records: Sequence[TrialRecord], answers: Answers) -> Judgement:
    """The verdict on what is stored; scores nothing."""
    tasks = [task.name for task in setup.config.tasks]
    shown = scored_contenders(records, setup.genome, answers)
    missing = _missing(setup, shown)
    lacking = [
        f"{line.name} on the search questions of {', '.join(without)}"
        for line in shown
        if (without := [t for t in tasks if t not in line.search.tasks])
    ]
    few = few_held_out(setup.config, setup.held_out)
    top = next((line for line in shown if line.contender.role == "top"), None)

    def made(
        rule: Rule, final: ScoredContender | None, text: str, comparisons: Sequence[Comparison] = ()
    ) -> Judgement:
        parents = ensemble(setup, shown, answers)
        return Judgement(shown, tasks, rule, final, missing, lacking, comparisons, parents, text)

    if top is None or (missing and not few):
        return made("not scored yet", None, not_yet(setup.config.file, missing))
    if few:
        return made("too few held-out questions", top, untold(top.contender, few, ENOUGH))
    final, comparisons = _compared(setup, shown)
    mine = [c for c in comparisons if c.contender == final.contender.name]
    return made("held-out", final, sentence(final.contender, mine, _parent(shown)), comparisons)


def _compared(
    setup: Setup, shown: Sequence[ScoredContender]
) -> tuple[ScoredContender, list[Comparison]]:
    ranked = [
        line for role in PREFERENCE for line in shown if line.contender.role == role
    ]  # of equals the first is chosen
    values = {
        line.contender.name: line.held_out.value for line in ranked if line.held_out is not None
    }
    final = choose(values)
    weights = {task.name: task.weight for task in setup.config.tasks if task.weight}
    choice = [t.name for t in setup.config.tasks if t.kind == "multiple_choice"]
    right = {
        line.contender.name: {name: task.right_Q for name, task in line.held_out.tasks.items()}
        for line in shown
        if line.held_out is not None
    }
    references = [x.contender.name for x in shown if x.contender.role in _REFERENCES]
    comparisons = compare(
        {name: right[name] for name in values},
        {name: right[name] for name in references},
        weights,
        choice,
    )
    return next(line for line in shown if line.contender.name == final), comparisons


_REFERENCES = ("base", "parent", "uniform")


def _parent(shown: Sequence[ScoredContender]) -> str:
    """The parent with the highest held-out score."""
    parents = {
        line.contender.name: line.held_out.value
        for line in shown
        if line.contender.role == "parent" and line.held_out is not None
    }
    return choose(parents)


def _missing(setup: Setup, shown: Sequence[ScoredContender]) -> list[str]:
    """What the comparison lacks, in words."""
    roles = [line.contender.role for line in shown]
    found = [f"the {name}" for role, name in _WANTED.items() if role not in roles]
    scored = [line.contender.record.baseline for line in shown]
    found += [
        f"parent {b.name}"
        for b in setup.genome.baselines()
        if b.kind == "parent" and b.name not in scored
    ]
    for line in shown:
        asked = line.held_out.tasks if line.held_out else {}
        without = [task.name for task in setup.held_out.tasks if task.name not in asked]
        of = f" of {', '.join(without)}" if asked else ""
        found += [f"{line.name} on the held-out questions{of}"] if without else []
    return found


_WANTED = {"top": "mean of the top trials", "best": "best trial", "uniform": "best uniform merge"}


def _named(line: ScoredContender) -> dict[str, Any]:
    c = line.contender
    return {"name": c.name, "role": c.role, "trial": c.record.number}


def _scores(line: ScoredContender, tasks: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"optimism": line.optimism(tasks)}
    for split, scores in (("search", line.search), ("held_out", line.held_out)):
        complete = whole(scores, tasks)
        found[split] = (
            None
            if scores is None
            else {
                "value": None if complete is None else complete.value,
                "error": None if complete is None else finite_or_none(complete.error),
                "tasks": {name: task.mean for name, task in scores.tasks.items()},
            }
        )
    return found
