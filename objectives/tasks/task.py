"""The interface of a task: questions, their prompts for an engine, and scores for the answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from objectives.engines.engine import Answer, Prompt


@dataclass(frozen=True)
class Question:
    """One row of a question file."""

    text: str
    """The question without its cue."""
    cue: str
    """The word before the final colon, such as "Answer" or "Output"; empty if there is none."""
    labels: tuple[int, ...]
    """The correct option, or the correct candidates in ascending order."""
    options: tuple[int, ...]
    """The numbers of the options; lettered options are numbered from 0."""
    letters: str = field(default="", kw_only=True)
    """The letter of each option; empty if the options are numbered."""
    location: str = field(default="", compare=False, kw_only=True)
    """The file and the line of the question."""

    def answer(self, option: int) -> str:
        """Return the number or letter with which an answer selects this option."""
        return self.letters[self.options.index(option)] if self.letters else str(option)

    @property
    def id(self) -> int:
        """A 64-bit hash of the text, which identifies the question in splits and stored scores."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "big")

    @property
    def key(self) -> object:
        """The part of a study's fingerprint that the prompts do not cover."""
        return self.labels


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that tasks use."""

    def __call__(self, text: list[str]) -> Mapping[str, Any]:
        """Encode several texts in parallel: `input_ids` has the result of `encode` for each."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Asked(Protocol):
    """The part of a task's interface that does not depend on how answers are scored."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float:
        """The task's weight in the objective; a negative weight minimizes its score."""

    @property
    def questions(self) -> tuple[Question, ...]: ...

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """Return the prompts of each question. Raises TaskError."""

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """Return the same task with these questions."""


class Task(Asked, Protocol):
    """A task whose score is the mean over its questions."""

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        """Return the score, 0 to 1, of the answers to a question's prompts."""

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """Return the probability, 0 to 1, of the correct answer at the first token."""

    def is_cut_off(self, answers: Sequence[Answer], tokenizer: Tokenizer) -> bool:
        """Return whether an answer was truncated before all that is scored was complete."""


@runtime_checkable
class WholeTask(Asked, Protocol):
    """A task whose score is computed from all its answers together."""

    def scores(self, answers_Q: Sequence[Sequence[Answer]]) -> list[float]:
        """Return a number for each question, [Q].

        Their mean is the task's score, and the standard error of this mean is the score's standard
        error. Raises TaskError and ScorerError.
        """
