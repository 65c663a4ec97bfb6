"""What an engine is: it loads merge after merge and answers prompts with the one it holds."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from objectives.merge.recipe import MergeRecipe


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue greedily."""

    tokens: tuple[int, ...]
    shared: int
    """How many leading tokens all prompts of its task have in common; at least one is its own."""
    max_tokens: int
    options: tuple[int, ...]
    """Tokens whose log-probabilities are wanted at the first position."""
    stops: frozenset[int] = field(default=frozenset(), repr=False)
    """Tokens that end the answer and stay in it. Not shown: there may be thousands of them."""


@dataclass(frozen=True)
class Answer:
    tokens: tuple[int, ...]
    """The continuation, up to max_tokens or a token of the prompt's stops, which is its last;
    without an end token of config.json, unless that is one of the stops. An end token that only
    generation_config.json names stays, as its last."""
    logprobs: tuple[float, ...]
    """Natural log-probabilities of the prompt's options as the first token."""
    finite: bool = True
    """False where the model gave NaN or infinity: the tokens then mean nothing."""


def said(
    tokens: Sequence[int], prompt: Prompt, ends: Container[int], kept: Container[int] = ()
) -> tuple[int, ...]:
    """What a model wrote, up to a stop of the prompt or one of `kept`, or before one of the
    model's `ends`."""
    for count, token in enumerate(tokens):
        if token in prompt.stops or token in kept:
            return tuple(tokens[: count + 1])
        if token in ends:
            return tuple(tokens[:count])
    return tuple(tokens)


class Engine(Protocol):
    def load(self, recipe: MergeRecipe) -> None:
        """Merge, and put the merged weights into the live model. Raises EngineError."""

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """One greedy answer a prompt, in the order given. Raises EngineError."""

    def close(self) -> None:
        """Give the device's memory back."""
