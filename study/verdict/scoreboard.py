"""The table of contenders: their scores on the search questions and on the held-out ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from objectives.scoring import Scores, TaskScores, finite_or_none
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.trials import TrialRecord
from study.cli.escaping import encodable, printable
from study.cli.text import HALF_INTERVAL, score_text
from study.search.contenders import Contender, Role, contenders
from study.search.genome import Genome
from study.search.stored_scores import scores_of


@dataclass(frozen=True)
class SplitScores:
    """The scores on one split of the questions."""

    value: float | None
    """The weighted score; None if a task was not asked."""
    error: float | None
    """Standard error of the value over questions; None if it cannot be computed."""
    tasks: Mapping[str, float]
    """The mean score of each task that was asked."""

    @property
    def margin(self) -> float:
        """Half the width of the value's own 95% interval; 0 if its error is unknown."""
        return HALF_INTERVAL * (self.error or 0.0)


@dataclass(frozen=True)
class ContenderSummary:
    """A contender in verdict.json and in the report; the fields are the keys."""

    name: str
    role: Role
    trial: int
    optimism: float | None
    search: SplitScores
    held_out: SplitScores | None


@dataclass(frozen=True)
class ScoredContender:
    """A contender with its scores, which lack the tasks that its trial was not asked."""

    contender: Contender
    search: Scores
    held_out: Scores | None

    @property
    def name(self) -> str:
        return self.contender.label

    def optimism(self, tasks: Sequence[str]) -> float | None:
        """Return the search score minus the held-out score; None if either lacks a task."""
        search, held_out = with_all(self.search, tasks), with_all(self.held_out, tasks)
        return None if search is None or held_out is None else search.value - held_out.value

    def summary(self, tasks: Sequence[str]) -> ContenderSummary:
        """Return the scores as plain numbers; `tasks` are those of the study."""
        held_out = None if self.held_out is None else _split_scores(self.held_out, tasks)
        return ContenderSummary(
            self.contender.name,
            self.contender.role,
            self.contender.record.number,
            self.optimism(tasks),
            _split_scores(self.search, tasks),
            held_out,
        )

    def cells(self, tasks: Sequence[str]) -> list[str]:
        """Return `search / held-out` for each task and for the weighted score, then the optimism;
        `-` stands for a score that is missing."""
        by_task = self.held_out.tasks if self.held_out else {}
        cells = [f"{_mean(self.search.tasks.get(t))} / {_mean(by_task.get(t))}" for t in tasks]
        search, held_out = with_all(self.search, tasks), with_all(self.held_out, tasks)
        value = "-" if search is None else f"{search.value:.3f}"
        optimism = self.optimism(tasks)
        cells.append(f"{value} / {_with_error(held_out)}")
        return [*cells, "-" if optimism is None else f"{optimism:+.3f}"]


def with_all(scores: Scores | None, tasks: Sequence[str]) -> Scores | None:
    """Return the scores if they have every task, else None: a sum over some of the tasks would be
    mistaken for a sum over all."""
    return None if scores is None or set(tasks) - scores.tasks.keys() else scores


def scored_contenders(
    records: Sequence[TrialRecord], genome: Genome, answers: ScoreStore
) -> list[ScoredContender]:
    """Return the contenders of a study with their stored scores."""
    scored = []
    for contender in contenders(records, genome):
        held_out = answers.read(contender.record.id, HELD_OUT)
        search = scores_of(answers.read(contender.record.id, SEARCH))
        scored.append(ScoredContender(contender, search, scores_of(held_out) if held_out else None))
    return scored


def search_scores(scored: Sequence[ScoredContender]) -> dict[str, list[float]]:
    """Return the contenders' mean scores on the search questions, by task."""
    names = dict.fromkeys(name for c in scored for name in c.search.tasks)
    return {
        name: [c.search.tasks[name].mean for c in scored if name in c.search.tasks]
        for name in names
    }


def table(
    scored: Sequence[ScoredContender], tasks: Sequence[str], encoding: str = "utf-8"
) -> Table:
    """Return the table of contenders, limited to the characters that the encoding has."""

    def cell(text: str) -> Text:
        return Text(encodable(printable(text), encoding))

    title = "score on search questions / on held-out questions ± 95% confidence interval"
    result = Table(title=encodable(title, encoding), title_justify="left")
    result.add_column("")
    for name in (*tasks, "weighted", "optimism"):
        result.add_column(cell(name), justify="right", no_wrap=True)
    for contender in scored:
        result.add_row(*map(cell, [contender.name, *contender.cells(tasks)]))
    return result


def _split_scores(scores: Scores, tasks: Sequence[str]) -> SplitScores:
    complete = with_all(scores, tasks)
    return SplitScores(
        None if complete is None else complete.value,
        None if complete is None else finite_or_none(complete.error),
        {name: task.mean for name, task in scores.tasks.items()},
    )


def _mean(scores: TaskScores | None) -> str:
    return "-" if scores is None else f"{scores.mean:.3f}"


def _with_error(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    return score_text(scores.value, scores.error)
