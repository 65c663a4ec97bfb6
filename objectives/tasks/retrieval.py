"""Retrieval: pick the (mostly three) right ones of a numbered list."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from objectives.engines.engine import Answer, Prompt
from objectives.tasks.prompts.prompt import Template, prompts
from objectives.tasks.questions.fields import Fields, Row
from objectives.tasks.questions.labels import BadRow, shown
from objectives.tasks.questions.question_files import question_of

from .multiple_choice import Scorer
from .task import Question, Tokenizer

PICKED = 3


@dataclass(frozen=True)
class Retrieval:
    name: str
    weight: float
    questions: tuple[Question, ...]
    template: Template
    max_tokens: int = 7
    scorer: Scorer = "official"

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """The same task with these questions."""
        return dataclasses.replace(self, questions=tuple(questions))

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        return prompts(self.name, self.questions, self.template, tokenizer, self.max_tokens, ",")

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        """hit@3, or with the exact scorer 1 where the answer is the labels and nothing else."""
        [answer] = answers
        picked = picks(tokenizer.decode(answer.tokens, skip_special_tokens=True))
        if self.scorer == "exact":
            return float(sorted(picked) == list(question.labels))
        hits = set(picked[:PICKED]) & set(question.labels)
        return len(hits) / len(question.labels)

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """The probability that the first token begins a label.

        Labels that begin with the same token (1 and 10, where digits are tokens) share it.
        """
        [prompt], [answer] = prompts, answers
        places = [question.options.index(label) for label in question.labels]
        starts = {prompt.options[i]: math.exp(answer.logprobs[i]) for i in places}
        return min(1.0, sum(starts.values()))


def picks(text: str) -> list[int]:
    """KDD Cup 2024's parser: digits, commas and spaces are kept, commas separate.

    Repeats stay, and so use up picks; what is no number between commas is passed over.
    """
    kept = "".join(c for c in text if c.isdecimal() or c in ", ")
    return [int(part) for part in kept.split(",") if part.strip().isdecimal()]


def parse(row: Row, fields: Fields | None = None) -> Question:
    """A row of a question file. Raises BadRow."""
    return question_of(row, _labels, fields)


def _labels(raw: Any, text: str) -> tuple[int, ...]:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = [raw]
    if isinstance(raw, str):
        if not re.fullmatch(r"[\s\[(]*\d{1,3}(?:[\s,;]+\d{1,3})*[\s\])]*", raw):
            raise BadRow(f"label {shown(raw)} is not a list of numbers such as 1,4,9")
        raw = re.findall(r"\d+", raw)
    if not isinstance(raw, list) or not all(map(_is_number, raw)):
        raise BadRow(f"label {shown(raw)} is not a list of numbers such as [1, 4, 9]")
    labels = tuple(sorted(int(item) for item in raw))
    if len(set(labels)) < len(labels):
        raise BadRow(f"label {shown(raw)} names a candidate twice")
    return labels


def _is_number(item: Any) -> bool:
    if isinstance(item, float):
        return item.is_integer() and 0 <= item < 1000
    return isinstance(item, str | int) and re.fullmatch(r"\d{1,3}", str(item)) is not None
