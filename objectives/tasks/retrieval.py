"""Retrieval: the answer is the numbers of the correct candidates in a list, mostly three."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from objectives.engines.engine import Answer, Prompt
from objectives.tasks.prompts.build import prompts
from objectives.tasks.prompts.prompt import Template
from objectives.tasks.questions.fields import Fields, Row
from objectives.tasks.questions.labels import BadRow, short_repr
from objectives.tasks.questions.question_files import question_of

from .multiple_choice import Scorer
from .task import Question, Tokenizer

PICKED = 3


@dataclass(frozen=True)
class Retrieval:
    """A task of retrieval questions."""

    name: str
    weight: float
    questions: tuple[Question, ...]
    template: Template
    max_tokens: int = 7
    scorer: Scorer = "official"

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """Return the same task with these questions."""
        return dataclasses.replace(self, questions=tuple(questions))

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """Return one prompt for each question. Raises TaskError."""
        return prompts(self.name, self.questions, self.template, tokenizer, self.max_tokens, ",")

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        """Return hit@3; with the exact scorer 1 if the answer is exactly the labels, else 0."""
        [answer] = answers
        picked = parse_answer(tokenizer.decode(answer.tokens, skip_special_tokens=True))
        if self.scorer == "exact":
            return float(sorted(picked) == list(question.labels))
        hits = set(picked[:PICKED]) & set(question.labels)
        return len(hits) / len(question.labels)

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """Return the probability that the first token is the start of a label.

        Labels that begin with the same token (1 and 10, if digits are tokens) are counted once.
        """
        [prompt], [answer] = prompts, answers
        indices = [question.options.index(label) for label in question.labels]
        starts = {prompt.options[i]: math.exp(answer.logprobs[i]) for i in indices}
        return min(1.0, sum(starts.values()))

    def is_cut_off(self, answers: Sequence[Answer], tokenizer: Tokenizer) -> bool:
        """Return whether an answer was truncated before its third number was complete; with the
        exact scorer, whether it was truncated."""
        [answer] = answers
        if self.scorer == "exact" or not answer.truncated:
            return answer.truncated
        return (
            len(parse_answer(tokenizer.decode(answer.tokens, skip_special_tokens=True))) <= PICKED
        )


def parse_answer(text: str) -> list[int]:
    """Return the numbers in an answer, as the parser of the KDD Cup 2024 does.

    All characters except digits, commas and spaces are removed, and the rest is split at commas.
    Parts that are not numbers are skipped. Repeated numbers stay and count as picks.
    """
    cleaned = "".join(c for c in text if c.isdecimal() or c in ", ")
    return [int(part) for part in cleaned.split(",") if part.strip().isdecimal()]


def parse_row(row: Row, fields: Fields | None = None) -> Question:
    """Return the question in a row of a question file. Raises BadRow."""
    return question_of(row, _labels, fields)


def _labels(raw: Any, text: str) -> tuple[int, ...]:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = [raw]
    if isinstance(raw, str):
        if not re.fullmatch(r"[\s\[(]*\d{1,3}(?:[\s,;]+\d{1,3})*[\s\])]*", raw):
            raise BadRow(f"label {short_repr(raw)} is not a list of numbers such as 1,4,9")
        raw = re.findall(r"\d+", raw)
    if not isinstance(raw, list) or not all(map(_is_number, raw)):
        raise BadRow(f"label {short_repr(raw)} is not a list of numbers such as [1, 4, 9]")
    labels = tuple(sorted(int(item) for item in raw))
    if len(set(labels)) < len(labels):
        raise BadRow(f"label {short_repr(raw)} lists a candidate twice")
    return labels


def _is_number(item: Any) -> bool:
    if isinstance(item, float):
        return item.is_integer() and 0 <= item < 1000
    return isinstance(item, str | int) and re.fullmatch(r"\d{1,3}", str(item)) is not None
