"""What a task is: questions with a right answer, prompts for an engine, a score for each answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from objectives.engines.engine import Answer, Prompt


class TaskError(Exception):
    """A task cannot be asked: says which, and what would mend it."""


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
    """The numbers that may be answered."""

    @property
    def id(self) -> int:
        """64 bits of the text's hash: what a question is called in splits and stored answers."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "big")


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that tasks use."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Task(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float:
        """The task's share in the objective; a negative weight minimises its score."""

    @property
    def questions(self) -> tuple[Question, ...]: ...

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[Prompt, ...]]:
        """The prompts of each question: one, where its answer is written, or several."""

    def only(self, questions: Sequence[Question]) -> "Task":
        """The same task with these questions."""

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
