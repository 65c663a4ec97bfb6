"""What an engine is: it loads merge after merge and answers prompts with the one it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from objectives.merge.recipe import MergeRecipe


class EngineError(Exception):
    """The engine could not load a merge or answer with it."""


class EngineMemoryError(EngineError):
    """The device's memory is exhausted."""


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class EngineDeadError(EngineError):
    """The engine's process is gone."""


class WeightError(EngineError):
    """Merged tensors and the model in the engine do not belong together."""


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue greedily."""

    tokens: tuple[int, ...]
    shared: int
    """How many leading tokens all prompts of its task have in common; at least one is its own."""
    max_tokens: int
    options: tuple[int, ...]
    """Tokens whose log-probabilities are wanted at the first position."""


@dataclass(frozen=True)
class Answer:
    tokens: tuple[int, ...]
    """The continuation, up to max_tokens, without the end-of-sequence token."""
    logprobs: tuple[float, ...]
    """Natural log-probabilities of the prompt's options as the first token."""
    finite: bool = True
    """False where the model gave NaN or infinity: the tokens then mean nothing."""


class Engine(Protocol):
    def load(self, recipe: MergeRecipe) -> None:
        """Merge, and put the merged weights into the live model. Raises EngineError."""

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """One greedy answer a prompt, in the order given. Raises EngineError."""

    def close(self) -> None:
        """Give the device's memory back."""
