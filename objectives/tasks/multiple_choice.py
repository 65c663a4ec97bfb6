"""Multiple choice: the answer begins with the number or letter of an option."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from objectives.engines.engine import Answer, Prompt
from objectives.errors import TaskError
from objectives.tasks.prompts.build import prompts
from objectives.tasks.prompts.prompt import Template
from objectives.tasks.questions.fields import Fields, Row
from objectives.tasks.questions.labels import BadRow, label_in
from objectives.tasks.questions.question_files import question_of

from .task import Question, Tokenizer

Scorer = Literal["official", "exact"]
"""`official` is the scorer of the KDD Cup 2024; `exact` accepts only the right option's token
(multiple choice), or the right labels and nothing else (retrieval)."""


@dataclass(frozen=True)
class MultipleChoice:
    """A task of multiple-choice questions."""

    name: str
    weight: float
    questions: tuple[Question, ...]
    template: Template
    max_tokens: int = 1
    scorer: Scorer = "official"

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """Return the same task with these questions."""
        return dataclasses.replace(self, questions=tuple(questions))

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """Return one prompt for each question.

        Raises TaskError if two options of a question are the same token.
        """
        prompts_Q = prompts(self.name, self.questions, self.template, tokenizer, self.max_tokens)
        for question, (prompt,) in zip(self.questions, prompts_Q, strict=True):
            if len(set(prompt.options)) < len(prompt.options):
                names = ", ".join(map(question.answer, question.options))
                unknown = getattr(tokenizer, "unk_token_id", None)
                raise TaskError(
                    f"{self.name}: the tokenizer does not know some of the answers {names}; number "
                    "the options from 0 or 1, or write them as texts in fields.options"
                    if unknown is not None and unknown in prompt.options
                    else f"{self.name}: the tokenizer has the same token for several of the "
                    f"answers {names}; number the options from 0 or 1, or end the template's turn "
                    "with a line break"
                )
        return prompts_Q

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        """Return 1 if the answer selects the correct option, else 0."""
        [prompt], [answer] = prompts, answers
        if self.scorer == "exact":
            correct = prompt.options[question.options.index(question.labels[0])]
            return float(answer.tokens[:1] == (correct,))
        text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
        if question.letters:
            return float(first_letter(text) == question.answer(question.labels[0]).lower())
        return float(first_digit(text) == question.labels[0])

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """Return the probability of the correct option among all tokens of the vocabulary."""
        [answer] = answers
        return math.exp(answer.logprobs[question.options.index(question.labels[0])])

    def is_cut_off(self, answers: Sequence[Answer], tokenizer: Tokenizer) -> bool:
        """Return False: the first character that is not white space is scored, and prompts end
        where it should follow."""
        return False


def first_digit(text: str) -> int | None:
    """Return the first character that is not white space, as a number; None if it is no digit.

    This is the parser of the KDD Cup 2024.
    """
    first = text.strip()[:1]
    return int(first) if first.isdecimal() else None


def first_letter(text: str) -> str | None:
    """Return the letter at the start of an answer such as "B", "(b)" or "B. soap", in lower case.

    Returns None if there is no letter.
    """
    match = re.match(r"\W*([a-z])(?![^\W_])", text, re.IGNORECASE)
    return match[1].lower() if match else None


def parse_row(row: Row, fields: Fields | None = None) -> Question:
    """Return the question in a row of a question file. Raises BadRow."""
    question = question_of(row, lambda raw, text: (label_in(raw, text),), fields)
    if not question.letters and question.options[-1] > 9:
        raise BadRow(
            f"option {question.options[-1]} has more than one digit, but the scorer reads only "
            "one; use letters or fewer options"
        )
    return question
