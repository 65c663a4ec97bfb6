"""A task or group of lm-eval as a task of this project.

Answers are converted to lm-eval's responses and processed by its filters, process_results and
aggregation. Q: documents of a task, as questions.
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
from objectives.tasks.scorer_calls import Scoring
from objectives.tasks.task import Question, Tokenizer

from .checks import errors_as_task_error
from .prompts import DocumentPrompts, RequestConverter, with_shared_start

_BLOCKS = 20
"""The number of blocks of the jackknife that estimates the error of a score that is no mean."""
_ALL_DOCUMENTS = 10
"""The timeout of a filter or an aggregation, in multiples of a document's timeout."""
_WORST = 1e6
"""The magnitude of the worst score, which replaces scores that are not finite."""

Aggregate = Callable[[list[Any]], float]


@dataclass(frozen=True)
class Document(Question):
    """A document of lm-eval. Its text is the document as JSON."""

    leaf: int = 0
    """The index of its leaf among those of the task."""
    number: int = 0
    """Its index among the leaf's documents."""

    @property
    def key(self) -> object:
        return self.leaf, self.text


@dataclass(frozen=True, eq=False)
class Leaf:
    """One task of lm-eval, with the requests of its documents."""

    name: str
    task: Any
    instances: Mapping[int, list[Any]]
    """The requests of each document."""
    filter: Any
    """lm-eval's FilterEnsemble, whose output the metric is computed from."""
    metric: str
    converter: RequestConverter
    scoring: Scoring
    converted: dict[int, DocumentPrompts] = field(default_factory=dict)
    """The prompts of each document that has been tokenized."""

    def prompts(self, numbers: Sequence[int]) -> list[tuple[Prompt, ...]]:
        """Return the prompts of these documents. Raises TaskError."""
        for number in numbers:
            if number not in self.converted:
                with errors_as_task_error(self.name, f"document {number} cannot be asked"):
                    self.converted[number] = self.converter.convert(
                        self.instances[number], self.name
                    )
        documents = with_shared_start([self.converted[number] for number in numbers])
        return [document.prompts for document in documents]

    def marks(self, answered: Mapping[int, Sequence[Answer]]) -> dict[int, Any]:
        """Return the metric of each document. Raises TaskError and ScorerError."""
        if not answered:
            return {}
        for number, answers in answered.items():
            requests = self.converted[number].requests
            for instance, request in zip(self.instances[number], requests, strict=True):
                instance.resps = [request.response(answers, self.converter)] * (
                    instance.repeats or 1
                )
        self._filter([i for number in answered for i in self.instances[number]])
        metrics = self.scoring.each(list(answered), self._call_name, self._process)
        without = [number for number, values in metrics.items() if self.metric not in values]
        if without:
            names = sorted({name for number in without for name in metrics[number]})
            only = ", ".join(map(str, names)) or "nothing"
            if len(without) == len(metrics):
                raise TaskError(
                    f"{self.name}: there is no metric {self.metric}; its process_results returns "
                    f"{only} ({self._excerpt(without[0])})"
                )
            raise ScorerError(
                f"{self._call_name(without[0])} returns no {self.metric}, only {only}; for a "
                "document that does not count return nan, with aggregation: nanmean"
            )
        return {number: values[self.metric] for number, values in metrics.items()}

    def aggregate(self, marks: list[Any]) -> float:
        """Return lm-eval's aggregation; nan if it is not defined. Raises ScorerError."""

        def aggregated() -> float:
            try:
                return float(self._aggregation(marks))
            except (OverflowError, ZeroDivisionError):
                return math.nan

        return self.scoring.one(f"{self.name}: its aggregation", aggregated, _ALL_DOCUMENTS)

    @property
    def is_mean(self) -> bool:
        """Whether the aggregation is lm-eval's mean."""
        return self._aggregation is mean

    @property
    def _aggregation(self) -> Aggregate:
        aggregation: Aggregate = self.task.aggregation().get(self.metric, mean)
        return aggregation

    def _filter(self, instances: list[Any]) -> None:
        for instance in instances:
            instance.filtered_resps.clear()  # those of the previous trial
        name = f"{self.name}: its filter {self.filter.name}"
        self.scoring.one(name, lambda: self.filter.apply(instances), _ALL_DOCUMENTS)

    def _process(self, number: int) -> dict[str, Any]:
        """Return the result of process_results for a document. Raises ValueError if invalid."""
        instances = self.instances[number]
        responses = [instance.filtered_resps[self.filter.name] for instance in instances]
        metrics = dict(self.task.process_results(instances[0].doc, responses))
        if self.metric in metrics:
            self._check(metrics[self.metric])
        return metrics

    def _check(self, mark: Any) -> None:
        """Raise ValueError if lm-eval's aggregation cannot use a mark."""
        aggregation = self._aggregation
        if aggregation is nanmean or aggregation.__module__ != mean.__module__:
            return  # the task's own aggregation may accept any value
        if self.is_mean:
            try:
                valid = not isinstance(mark, str | bytes) and math.isfinite(float(mark))
            except (TypeError, ValueError, OverflowError):
                valid = False
        else:
            valid = mark is not None and not (isinstance(mark, float) and math.isnan(mark))
        if not valid:
            raise ValueError(f"{self.metric} is {mark!r:.60}, which is not a number")

    def _call_name(self, number: int) -> str:
        return f"{self.name}: process_results of {self._excerpt(number)}"

    def _excerpt(self, number: int) -> str:
        """Return a document's number, and the beginnings of its texts and of the responses."""
        instances = self.instances[number]
        doc = instances[0].doc
        texts = [str(part) for part in doc.values()] if isinstance(doc, dict) else [str(doc)]
        start = " ".join(" ".join(texts).split())[:60]
        answers = [instance.filtered_resps.get(self.filter.name) for instance in instances]
        return f"document {number} ({start!r}, responses {answers!r:.60})"


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval, or a group whose score is the mean over its leaves."""

    name: str
    weight: float
    leaves: tuple[Leaf, ...]
    by_size: bool
    """Whether leaves are weighted by the number of their documents, or equally."""
    questions: tuple[Document, ...]
    version: str
    """lm-eval's version and a hash of the task's files."""

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """Return the same task with these questions."""
        documents = tuple(q for q in questions if isinstance(q, Document))
        return dataclasses.replace(self, questions=documents)

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """Return the prompts of each document.

        `tokenizer` is ignored: the task was loaded with its tokenizer.
        """
        by_document: dict[Document, tuple[Prompt, ...]] = {}
        for number, leaf in enumerate(self.leaves):
            own = [document for document in self.questions if document.leaf == number]
            by_document.update(zip(own, leaf.prompts([d.number for d in own]), strict=True))
        return [by_document[document] for document in self.questions]

    def scores(self, answers_Q: Sequence[Sequence[Answer]]) -> list[float]:
        """Return a number for each document; their mean is the task's score.

        Raises TaskError and ScorerError.
        """
        parts: list[dict[int, float]] = []
        for number, leaf in enumerate(self.leaves):
            answered = {
                document.number: answers
                for document, answers in zip(self.questions, answers_Q, strict=True)
                if document.leaf == number
            }
            if answered:
                parts.append(_leaf_scores(leaf, answered, self.weight >= 0))
            else:
                parts.append({})
        if not self.by_size:
            parts = _equally_weighted(parts)
        return [parts[document.leaf][document.number] for document in self.questions]


def _leaf_scores(
    leaf: Leaf, answered: Mapping[int, Sequence[Answer]], maximize: bool
) -> dict[int, float]:
    """Return a number for each document of a leaf; their mean is the leaf's score.

    A document with non-finite answers gets the worst mark if marks are 0 to 1 and averaged.
    Otherwise the worst mark is unknown, and the whole score becomes the worst one.
    """
    finite = {n: a for n, a in answered.items() if all(answer.finite for answer in a)}
    marks = leaf.marks(finite)
    worst = dict.fromkeys(answered, -_WORST if maximize else _WORST)
    if len(finite) < len(answered):
        in_unit_interval = leaf.is_mean and all(_is_in_unit_interval(m) for m in marks.values())
        if not in_unit_interval:
            return worst
        marks |= dict.fromkeys(answered.keys() - finite.keys(), 0.0 if maximize else 1.0)
    score = leaf.aggregate(list(marks.values()))
    if not math.isfinite(score):
        return worst
    scores = dict.fromkeys(answered, score)
    deviations = _of_mean(marks, score) if leaf.is_mean else _jackknifed(leaf, marks, score)
    stretch = len(answered) / len(marks)
    for number, deviation in deviations.items():
        scores[number] += deviation * stretch
    return scores


def _is_in_unit_interval(mark: Any) -> bool:
    return isinstance(mark, int | float) and 0 <= mark <= 1


def _of_mean(marks: Mapping[int, Any], score: float) -> dict[int, float]:
    return {number: float(mark) - score for number, mark in marks.items()}


def _jackknifed(leaf: Leaf, marks: Mapping[int, Any], score: float) -> dict[int, float]:
    """Return each document's effect on the score, estimated by a jackknife over blocks.

    The effects are Tukey's pseudo-values, centred and scaled so that the standard error of their
    mean over documents is the jackknife's standard error of the score.
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
    effects = [(middle - value) * stretch for value in without]
    by_number = {n: effects[i % count] for i, n in enumerate(numbers)}
    centre = statistics.fmean(by_number.values())
    return {n: value - centre for n, value in by_number.items()}


def _equally_weighted(parts: list[dict[int, float]]) -> list[dict[int, float]]:
    """Scale the numbers so that their mean over documents is the mean over leaves."""
    means = [statistics.fmean(part.values()) for part in parts if part]
    score, total = statistics.fmean(means), sum(map(len, parts))
    spread = []
    for part in parts:
        own = statistics.fmean(part.values()) if part else 0.0
        stretch = total / (len(means) * len(part)) if part else 0.0
        spread.append({n: score + (value - own) * stretch for n, value in part.items()})
    return spread
