"""Multiple choice: one token, the number of the right option."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from objectives.engines.engine import Answer, Prompt

from .prompts import Template, prompts
from .question_files import BadRow, Row, question_of
from .task import Question, Tokenizer

Scorer = Literal["official", "exact"]


@dataclass(frozen=True)
class MultipleChoice:
    name: str
    weight: float
    questions: tuple[Question, ...]
    template: Template
    max_tokens: int = 1
    scorer: Scorer = "official"

    def only(self, questions: Sequence[Question]) -> Self:
        """The same task with these questions."""
        return dataclasses.replace(self, questions=tuple(questions))

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        return prompts(self.name, self.questions, self.template, tokenizer, self.max_tokens, str)

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        [prompt], [answer] = prompts, answers
        if self.scorer == "exact":
            right = prompt.options[question.options.index(question.labels[0])]
            return float(answer.tokens[:1] == (right,))
        text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
        return float(first_digit(text) == question.labels[0])

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """The probability of the right option, among all tokens of the vocabulary."""
        [answer] = answers
        return math.exp(answer.logprobs[question.options.index(question.labels[0])])


def first_digit(text: str) -> int | None:
    """KDD Cup 2024's parser: the first character, white space aside, as a number."""
    first = text.strip()[:1]
    return int(first) if first.isdecimal() else None


def parse(row: Row) -> Question:
    """A row of a question file. Raises BadRow."""
    question = question_of(row, _label)
    if question.options[-1] > 9:
        raise BadRow(f"option {question.options[-1]} is no single digit, so no one token answers")
    return question


def _label(raw: Any) -> tuple[int, ...]:
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return (raw,)
    match = re.match(r"\s*(\d{1,3})\b", raw) if isinstance(raw, str) else None
    if match is None:
        raise BadRow(f"output_field {raw!r} does not begin with the number of an option")
    return (int(match[1]),)
