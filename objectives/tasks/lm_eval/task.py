"""A task or group of lm-eval among ours: answers become lm-eval's responses, and go through its
own filters, process_results and aggregation.

Q: documents of a task, as questions.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from lm_eval.api.metrics import mean, nanmean

from objectives.engines.engine import Answer, Prompt
from objectives.errors import ScorerError, TaskError
from objectives.tasks.scorer import Scoring
from objectives.tasks.task import Question, Tokenizer

from .checks import failing_as
from .prompts import Writer, Written, with_shared_start

_BLOCKS = 20
"""Of the jackknife that gives the error of a score which is no mean."""
_OF_ALL = 10
"""Times the timeout of a document: what a filter or an aggregation of all of them may take."""
_WORST = 1e6
"""What a score counts as, with the sign that hurts, which is no number or has no bound."""

Aggregate = Callable[[list[Any]], float]


@dataclass(frozen=True)
class Document(Question):
    """A document of lm-eval; its text is the document as JSON."""

    leaf: int = 0
    """Which of the task's leaves it belongs to."""
    number: int = 0
    """Its number among the leaf's documents."""

    @property
    def key(self) -> object:
        return self.leaf, self.text


@dataclass(frozen=True, eq=False)
class Leaf:
    """One task of lm-eval, with the requests of its documents."""

    name: str
    task: Any
    instances: Mapping[int, list[Any]]
    """Each document's requests."""
    filter: Any
    """lm-eval's FilterEnsemble that the metric stands behind."""
    metric: str
    writer: Writer
    scoring: Scoring
    written: dict[int, Written] = field(default_factory=dict)
    """What each document asks, once it has been tokenised."""

    def asked(self, numbers: Sequence[int]) -> list[tuple[Prompt, ...]]:
        """The prompts of these documents. Raises TaskError."""
        for number in numbers:
            if number not in self.written:
                with failing_as(self.name, f"document {number} cannot be asked"):
                    self.written[number] = self.writer.written(self.instances[number], self.name)
        pages = with_shared_start([self.written[number] for number in numbers])
        return [page.prompts for page in pages]

    def marks(self, answered: Mapping[int, Sequence[Answer]]) -> dict[int, Any]:
        """The metric of each document. Raises TaskError and ScorerError."""
        if not answered:
            return {}
        for number, answers in answered.items():
            requests = self.written[number].requests
            for instance, request in zip(self.instances[number], requests, strict=True):
                instance.resps = [request.response(answers, self.writer)] * (instance.repeats or 1)
        self._filtered([i for number in answered for i in self.instances[number]])
        metrics = self.scoring.each(list(answered), self._of_document, self._processed)
        lacking = [number for number, found in metrics.items() if self.metric not in found]
        if lacking:
            names = sorted({name for number in lacking for name in metrics[number]})
            only = ", ".join(map(str, names)) or "nothing"
            if len(lacking) == len(metrics):
                raise TaskError(
                    f"{self.name}: there is no metric {self.metric}; its process_results gives "
                    f"{only} ({self._excerpt(lacking[0])})"
                )
            raise ScorerError(
                f"{self._of_document(lacking[0])} gives no {self.metric}, only {only}; for a "
                "document that does not count return nan, with aggregation: nanmean"
            )
        return {number: found[self.metric] for number, found in metrics.items()}

    def aggregate(self, marks: list[Any]) -> float:
        """lm-eval's aggregation: nan where it has no value. Raises ScorerError."""

        def aggregated() -> float:
            try:
                return float(self._aggregation(marks))
            except (OverflowError, ZeroDivisionError):
                return math.nan

        return self.scoring.one(f"{self.name}: its aggregation", aggregated, _OF_ALL)

    @property
    def is_mean(self) -> bool:
        return self._aggregation is mean

    @property
    def _aggregation(self) -> Aggregate:
        found: Aggregate = self.task.aggregation().get(self.metric, mean)
        return found

    def _filtered(self, instances: list[Any]) -> None:
        for instance in instances:
            instance.filtered_resps.clear()  # those of the trial before
        name = f"{self.name}: its filter {self.filter.name}"
        self.scoring.one(name, lambda: self.filter.apply(instances), _OF_ALL)

    def _processed(self, number: int) -> dict[str, Any]:
        """What process_results gives for a document, its metric checked."""
        instances = self.instances[number]
        responses = [instance.filtered_resps[self.filter.name] for instance in instances]
        metrics = dict(self.task.process_results(instances[0].doc, responses))
        if self.metric in metrics:
            self._check(metrics[self.metric])
        return metrics

    def _check(self, mark: Any) -> None:
        """Raise ValueError if the aggregation would make nothing of it, or nothing good."""
        aggregation = self._aggregation
        if aggregation is nanmean or aggregation.__module__ != mean.__module__:
            return  # the task's own aggregation may take anything
        if self.is_mean:
            try:
                fine = not isinstance(mark, str | bytes) and math.isfinite(float(mark))
            except (TypeError, ValueError, OverflowError):
                fine = False
        else:
            fine = mark is not None and not (isinstance(mark, float) and math.isnan(mark))
        if not fine:
            raise ValueError(f"{self.metric} is {mark!r:.60}, which is no number")

    def _of_document(self, number: int) -> str:
        return f"{self.name}: process_results of {self._excerpt(number)}"

    def _excerpt(self, number: int) -> str:
        """A document's number, the beginning of its texts, and of what was answered."""
        instances = self.instances[number]
        doc = instances[0].doc
        texts = [str(part) for part in doc.values()] if isinstance(doc, dict) else [str(doc)]
        start = " ".join(" ".join(texts).split())[:60]
        answers = [instance.filtered_resps.get(self.filter.name) for instance in instances]
        return f"document {number} ({start!r}, responses {answers!r:.60})"


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval, or a group, whose score is a mean over its leaves."""

    name: str
    weight: float
    leaves: tuple[Leaf, ...]
    by_size: bool
    """Whether a leaf counts by the number of its documents, or as much as any other."""
    questions: tuple[Document, ...]
    origin: str
    """What it is made of, beside its documents: a hash of its files, and lm-eval's version."""

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """The same task with these questions."""
        documents = tuple(q for q in questions if isinstance(q, Document))
        return dataclasses.replace(self, questions=documents)

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """The prompts of each document, by the tokenizer that the task was loaded with."""
        made: dict[Document, tuple[Prompt, ...]] = {}
        for number, leaf in enumerate(self.leaves):
            mine = [document for document in self.questions if document.leaf == number]
            made.update(zip(mine, leaf.asked([d.number for d in mine]), strict=True))
        return [made[document] for document in self.questions]

    def scores(self, answers_Q: Sequence[Sequence[Answer]]) -> list[float]:
        parts: list[dict[int, float]] = []
        for number, leaf in enumerate(self.leaves):
            answered = {
                document.number: answers
                for document, answers in zip(self.questions, answers_Q, strict=True)
                if document.leaf == number
            }
            if answered:
                parts.append(_rights(leaf, answered, self.weight >= 0))
            else:
                parts.append({})
        if not self.by_size:
            parts = _of_equal_weight(parts)
        return [parts[document.leaf][document.number] for document in self.questions]


def _rights(leaf: Leaf, answered: Mapping[int, Sequence[Answer]], rising: bool) -> dict[int, float]:
    """A leaf's score, spread over its documents: their mean is the score.

    An answer of NaN counts as wrong where documents are marked from 0 to 1 and averaged; else it
    makes the whole score the worst there is, since nobody knows how bad a document may be.
    """
    fine = {n: a for n, a in answered.items() if all(answer.finite for answer in a)}
    marks = leaf.marks(fine)
    worst = dict.fromkeys(answered, -_WORST if rising else _WORST)
    if len(fine) < len(answered):
        shares = leaf.is_mean and all(_is_share(mark) for mark in marks.values())
        if not shares:
            return worst
        marks |= dict.fromkeys(answered.keys() - fine.keys(), 0.0 if rising else 1.0)
    score = leaf.aggregate(list(marks.values()))
    if not math.isfinite(score):
        return worst
    found = dict.fromkeys(answered, score)
    deviations = _of_mean(marks, score) if leaf.is_mean else _jackknifed(leaf, marks, score)
    stretch = len(answered) / len(marks)
    for number, deviation in deviations.items():
        found[number] += deviation * stretch
    return found


def _is_share(mark: Any) -> bool:
    return isinstance(mark, int | float) and 0 <= mark <= 1


def _of_mean(marks: Mapping[int, Any], score: float) -> dict[int, float]:
    return {number: float(mark) - score for number, mark in marks.items()}


def _jackknifed(leaf: Leaf, marks: Mapping[int, Any], score: float) -> dict[int, float]:
    """What each document moves the score by, told for blocks of documents: the score's error is
    then that of a mean over documents (Tukey's pseudo-values, with one block left out at a time).
    """
    numbers, count = list(marks), min(_BLOCKS, len(marks))
    if count < 2:
        return {}
    without = [
        leaf.aggregate([marks[n] for i, n in enumerate(numbers) if i % count != block])
        for block in range(count)
    ]
    if not all(map(math.isfinite, without)):
        return {}
    middle = statistics.fmean(without)
    stretch = (count - 1) * math.sqrt((len(numbers) - 1) / (count - 1))
    moved = [(middle - value) * stretch for value in without]
    by_number = {n: moved[i % count] for i, n in enumerate(numbers)}
    centre = statistics.fmean(by_number.values())
    return {n: value - centre for n, value in by_number.items()}


def _of_equal_weight(parts: list[dict[int, float]]) -> list[dict[int, float]]:
    """The same where each leaf counts alike: deviations are stretched, the mean is that of all."""
    means = [statistics.fmean(part.values()) for part in parts if part]
    score, total = statistics.fmean(means), sum(map(len, parts))
    spread = []
    for part in parts:
        own = statistics.fmean(part.values()) if part else 0.0
        stretch = total / (len(means) * len(part)) if part else 0.0
        spread.append({n: score + (value - own) * stretch for n, value in part.items()})
    return spread


def remember(task: Any, docs: Sequence[Any]) -> None:
    """Render each document's templates once: lm-eval compiles them anew at every call."""
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = getattr(getattr(task, "config", None), name, None)
        if isinstance(template, str) and hasattr(task, name):
            setattr(task, name, _once_each(getattr(task, name), docs))


def _once_each(render: Any, docs: Sequence[Any]) -> Any:
    known: dict[int, Any] = {}
    lasting = {id(doc) for doc in docs}

    def remembered(doc: Any, *given: Any) -> Any:
        if given or id(doc) not in lasting:
            return render(doc, *given)
        if id(doc) not in known:
            known[id(doc)] = render(doc)
        value = known[id(doc)]
        return list(value) if isinstance(value, list) else value

    return remembered
