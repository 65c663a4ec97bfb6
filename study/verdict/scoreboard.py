"""The table at the end of a run: what the search comes to, beside what needs no search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from objectives.scoring import Scores, TaskScores
from storage.scores import HELD_OUT, SEARCH, Answers
from storage.trials import TrialRecord
from study.cli.escaping import encodable, printable
from study.search.contenders import Contender, contenders
from study.search.genome import Genome
from study.search.stored_scores import scores_of


@dataclass(frozen=True)
class ScoredContender:
    """One merge or model of the table. Of a task that a trial was not asked it has no scores."""

    contender: Contender
    search: Scores
    held_out: Scores | None

    @property
    def name(self) -> str:
        return self.contender.label

    def optimism(self, tasks: Sequence[str]) -> float | None:
        """Search score minus held-out score; None where one of them lacks a task."""
        held_out = whole(self.held_out, tasks)
        if held_out is None or whole(self.search, tasks) is None:
            return None
        return self.search.value - held_out.value

    def cells(self, tasks: Sequence[str]) -> list[str]:
        """A cell for each task, one for the weighted value, search before held-out, and one for
        the optimism."""
        held = self.held_out.tasks if self.held_out else {}
        made = [f"{_mean(self.search.tasks.get(t))} / {_mean(held.get(t))}" for t in tasks]
        search, held_out = whole(self.search, tasks), whole(self.held_out, tasks)
        value = "-" if search is None else f"{search.value:.3f}"
        optimism = self.optimism(tasks)
        made.append(f"{value} / {_with_error(held_out)}")
        return [*made, "-" if optimism is None else f"{optimism:+.3f}"]


def whole(scores: Scores | None, tasks: Sequence[str]) -> Scores | None:
    """The scores where they have every task: a sum over some would be read as one over all."""
    return None if scores is None or set(tasks) - scores.tasks.keys() else scores


def scored_contenders(
    records: Sequence[TrialRecord], genome: Genome, answers: Answers
) -> list[ScoredContender]:
    """All candidates and what they are compared with, with what is stored of each."""
    found = []
    for candidate in contenders(records, genome):
        held_out = answers.read(candidate.record.id, HELD_OUT)
        search = scores_of(answers.read(candidate.record.id, SEARCH))
        found.append(ScoredContender(candidate, search, scores_of(held_out) if held_out else None))
    return found


def search_scores(shown: Sequence[ScoredContender]) -> dict[str, list[float]]:
    """Each task's scores on the search questions."""
    names = dict.fromkeys(name for line in shown for name in line.search.tasks)
    return {
        name: [line.search.tasks[name].mean for line in shown if name in line.search.tasks]
        for name in names
    }


def table(shown: Sequence[ScoredContender], tasks: Sequence[str], encoding: str = "utf-8") -> Table:
    """The table, in what an encoding can write."""

    def cell(text: str) -> Text:
        return Text(encodable(printable(text), encoding))

    made = Table(title="score on search questions / on held-out questions", title_justify="left")
    made.add_column("")
    for name in (*tasks, "weighted", "optimism"):
        made.add_column(cell(name), justify="right", no_wrap=True)
    for line in shown:
        made.add_row(*map(cell, [line.name, *line.cells(tasks)]))
    return made


def _mean(scores: TaskScores | None) -> str:
    return "-" if scores is None else f"{scores.mean:.3f}"


def _with_error(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    return f"{scores.value:.3f}" + (f" ± {scores.error:.3f}" if math.isfinite(scores.error) else "")
