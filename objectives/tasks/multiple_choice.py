"""Multiple choice: one token, the number of the right option."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from objectives.engines.engine import Answer, Prompt
from objectives.errors import TaskError
from objectives.tasks.prompts.prompt import Template, prompts
from objectives.tasks.questions.fields import Fields, Row
from objectives.tasks.questions.labels import BadRow, label_in
from objectives.tasks.questions.question_files import question_of

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

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """The same task with these questions."""
        return dataclasses.replace(self, questions=tuple(questions))

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """Raises TaskError where two options of a question are the same token."""
        made = prompts(self.name, self.questions, self.template, tokenizer, self.max_tokens)
        for question, (prompt,) in zip(self.questions, made, strict=True):
            if len(set(prompt.options)) < len(prompt.options):
                names = ", ".join(map(question.answer, question.options))
                raise TaskError(
                    f"{self.name}: the tokenizer has no different tokens for the answers {names}; "
                    "number the options from 0 or 1, or end the template's turn in a line break"
                )
        return made

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
        if question.letters:
            return float(first_letter(text) == question.answer(question.labels[0]).lower())
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


def first_letter(text: str) -> str | None:
    """The letter that an answer such as "B", "(b)" or "B. soap" begins with, in lower case."""
    match = re.match(r"\W*([a-z])(?![^\W_])", text, re.IGNORECASE)
    return match[1].lower() if match else None


def parse(row: Row, fields: Fields | None = None) -> Question:
    """A row of a question file. Raises BadRow."""
    question = question_of(row, lambda raw, text: (label_in(raw, text),), fields)
    if not question.letters and question.options[-1] > 9:
        raise BadRow(f"option {question.options[-1]} is no single digit, so no one token answers")
    return question
