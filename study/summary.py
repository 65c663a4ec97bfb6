"""The table at the end of a run: what the search found, beside what needs no search."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from objectives.merge.recipe import MergeRecipe
from objectives.scoring import Scores, TaskScores
from storage.answers import HELD_OUT, SEARCH, Answers, TaskAnswers
from storage.trials import TrialRecord, best

from .genome import Genome


@dataclass(frozen=True)
class Line:
    """One merge or model of the table."""

    name: str
    search: Scores
    held_out: Scores | None

    def cells(self, tasks: Sequence[str]) -> list[str]:
        """A cell for each task and one for the weighted value, search before held-out."""
        made = []
        for task in tasks:
            held = self.held_out.tasks.get(task) if self.held_out else None
            made.append(f"{self.search.tasks[task].mean:.3f} / {_mean(held)}")
        held_out = self.held_out
        if held_out is not None and held_out.tasks.keys() != self.search.tasks.keys():
            held_out = None  # a sum over some of the tasks would be read as one over all
        return [*made, f"{self.search.value:.3f} / {_with_error(held_out)}"]


HeldOut = Callable[[TrialRecord, MergeRecipe], Scores | None]


def lines(
    records: Sequence[TrialRecord], genome: Genome, answers: Answers, held_out: HeldOut
) -> list[Line]:
    """The base, each parent, the best uniform merge, and the best merge of the search."""
    complete = [r for r in records if r.complete]
    chosen = [
        (r.kind if r.kind == r.baseline else f"{r.kind} {r.baseline}", r)
        for r in complete
        if r.kind in ("base", "parent")
    ]
    uniform = best([r for r in complete if r.kind == "uniform"])
    found = best([r for r in complete if r.kind == "search"])
    chosen += [(f"best {uniform.baseline}", uniform)] if uniform else []
    chosen += [(f"best found (trial {found.number})", found)] if found else []
    return [
        Line(name, scores_of(answers.read(r.id, SEARCH)), held_out(r, recipe_of(r, genome)))
        for name, r in chosen
    ]


def stored_lines(records: Sequence[TrialRecord], genome: Genome, answers: Answers) -> list[Line]:
    """The same from what is stored, with no engine."""

    def held_out(record: TrialRecord, _: MergeRecipe) -> Scores | None:
        stored = answers.read(record.id, HELD_OUT)
        return scores_of(stored) if stored else None

    return lines(records, genome, answers, held_out)


def recipe_of(record: TrialRecord, genome: Genome) -> MergeRecipe:
    """The merge that a trial scored."""
    if record.baseline is None:
        return genome.recipe(record.params)
    return next(b.recipe for b in genome.baselines() if b.name == record.baseline)


def scores_of(stored: Mapping[str, TaskAnswers]) -> Scores:
    """Stored answers as scores again."""
    return Scores(
        {
            name: TaskScores(task.weight, task.right_Q, task.soft_Q, task.broken)
            for name, task in stored.items()
        }
    )


def answers_of(scores: Scores) -> dict[str, TaskAnswers]:
    """Scores as they are stored."""
    return {
        name: TaskAnswers(task.weight, task.right_Q, task.soft_Q, task.broken)
        for name, task in scores.tasks.items()
    }


def table(shown: Sequence[Line], tasks: Sequence[str]) -> Table:
    made = Table(title="score on search questions / on held-out questions", title_justify="left")
    made.add_column("")
    for name in (*tasks, "weighted"):
        made.add_column(name, justify="right", no_wrap=True)
    for line in shown:
        made.add_row(line.name, *line.cells(tasks))
    return made


def _mean(scores: TaskScores | None) -> str:
    return "-" if scores is None else f"{scores.mean:.3f}"


def _with_error(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    return f"{scores.value:.3f}" + (f" ± {scores.error:.3f}" if math.isfinite(scores.error) else "")
