"""The interface of an engine, which loads one merge after another and answers prompts with it."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from objectives.merge.recipe import Recipe


@dataclass(frozen=True)
class Prompt:
    """Token ids that a model continues greedily.

    Its repr is part of the fingerprint of stored studies: rename neither the class nor a field.
    """

    tokens: tuple[int, ...]
    shared: int
    """The length of the prefix that all prompts of the task share; less than the prompt's."""
    max_tokens: int
    """The maximum number of tokens of the answer."""
    options: tuple[int, ...]
    """The tokens whose log-probabilities at the first position are needed."""
    stops: frozenset[int] = field(default=frozenset(), repr=False)
    """The tokens that end the answer and are part of it. There may be thousands of them."""


@dataclass(frozen=True)
class Answer:
    """A model's greedy continuation of a prompt."""

    tokens: tuple[int, ...]
    """Up to max_tokens tokens. A stop of the prompt is the last token, and so is an end token that
    only generation_config.json names; an end token of config.json is left out."""
    logprobs: tuple[float, ...]
    """Natural log-probabilities of the prompt's options as the first token."""
    finite: bool = True
    """Whether all logits were finite; if not, the tokens have no meaning."""
    truncated: bool = False
    """Whether the answer has max_tokens tokens and no end."""

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        generated: Sequence[int],
        logprobs: tuple[float, ...],
        finite: bool,
        dropped: Container[int],
        kept: Container[int],
    ) -> "Answer":
        """Return the answer in the `generated` tokens, which may go on after its end.

        A stop of the prompt and an end token in `kept` are part of the answer; an end token in
        `dropped` is not, unless it is also a stop.
        """
        for count, token in enumerate(generated):
            if token in prompt.stops or token in kept:
                return cls(tuple(generated[: count + 1]), logprobs, finite)
            if token in dropped:
                return cls(tuple(generated[:count]), logprobs, finite)
        tokens = tuple(generated)
        return cls(tokens, logprobs, finite, len(tokens) == prompt.max_tokens)


class Engine(Protocol):
    """Holds one model in memory and overwrites its weights with each merge."""

    def load(self, recipe: Recipe) -> None:
        """Merge the sources and load the result into the model. Raises EngineError."""

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return one greedy answer for each prompt, in their order. Raises EngineError."""

    def close(self) -> None:
        """Release the device's memory."""
