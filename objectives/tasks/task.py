"""What a task is: questions with a right answer, prompts for an engine, a score for each answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from objectives.engines.engine import Answer, Prompt


@dataclass(frozen=True)
class Question:
    """One row of a question file."""

    text: str
    """Without the cue that asks for the answer."""
    cue: str
    """The word before the final colon ("Answer", "Output"), or nothing."""
    labels: tuple[int, ...]
    """The right option, or the right candidates in ascending order."""
    options: tuple[int, ...]
    """The numbers that may be answered; of lettered options, their places from 0."""
    letters: str = field(default="", kw_only=True)
    """A letter for each option, where they are lettered: what is answered then."""
    place: str = field(default="", compare=False, kw_only=True)
    """Its file and line."""

    def answer(self, option: int) -> str:
        """What an answer that names this option begins with."""
        return self.letters[self.options.index(option)] if self.letters else str(option)

    @property
    def id(self) -> int:
        """64 bits of the text's hash: what a question is called in splits and stored answers."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "big")

    @property
    def key(self) -> object:
        """What a study's fingerprint takes of it, beside its prompts."""
        return self.labels


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that tasks use."""

    def __call__(self, text: list[str]) -> Mapping[str, Any]:
        """Several texts at once, on all cores: `input_ids` holds what `encode` gives for each."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Asked(Protocol):
    """What is asked, by whatever rule its answers are scored."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float:
        """The task's share in the objective; a negative weight minimises its score."""

    @property
    def questions(self) -> tuple[Question, ...]: ...

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """The prompts of each question: one, where its answer is written, or several."""

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """The same task with these questions."""


class Task(Asked, Protocol):
    """A task whose score is the mean over its questions."""

    def score(
        self,
        question: Question,
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        tokenizer: Tokenizer,
    ) -> float:
        """0 to 1: how right the answers to a question's prompts are."""

    def soft(
        self, question: Question, prompts: Sequence[Prompt], answers: Sequence[Answer]
    ) -> float:
        """0 to 1: the probability of a right answer at the first token."""


@runtime_checkable
class WholeTask(Asked, Protocol):
    """A task that scores all its answers together."""

    def scores(self, answers_Q: Sequence[Sequence[Answer]]) -> list[float]:
        """A number for each question; their mean is the task's score, and their spread gives its
        error, as if the score were a mean. Raises TaskError and ScorerError.
        """
