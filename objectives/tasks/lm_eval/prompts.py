"""Convert lm-eval's requests to prompts, tokenized by lm-eval's rules.

A continuation of n tokens becomes n prompts, each of which asks for the probability of one token;
the engine's prefix cache makes that cheap. Requests of one document that need log-probabilities
after the same tokens share a prompt, up to 128 options. A request that generates text becomes one
prompt.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from objectives.engines.engine import Answer, Prompt
from objectives.errors import TaskError
from objectives.tasks.prompts.build import shared_start
from objectives.tasks.prompts.conversation import ChatTemplateError, Conversations

_MAX_OPTIONS = 128
"""The maximum number of options of a prompt, which is vLLM's limit of log-probabilities."""
_DEFAULT_MAX_TOKENS = 256
"""The limit of an answer's tokens if the task has none, as in lm-eval."""
_WITHOUT_EFFECT = {"do_sample", "temperature", "top_p", "top_k"}
"""Settings that do not affect greedy answers."""


@dataclass(frozen=True)
class Step:
    """One token of a continuation, with the index of its prompt and of its option there."""

    prompt: int
    option: int
    token: int


@dataclass(frozen=True)
class LoglikelihoodRequest:
    """A request for the log-probability of a text."""

    steps: tuple[Step, ...]

    def response(
        self, answers: Sequence[Answer], converter: "RequestConverter"
    ) -> tuple[float, bool]:
        """Return the log-probability, and whether the continuation is the greedy answer."""
        parts = [(answers[step.prompt], step) for step in self.steps]
        return (
            math.fsum(answer.logprobs[step.option] for answer, step in parts),
            all(answer.tokens[:1] == (step.token,) for answer, step in parts),
        )


@dataclass(frozen=True)
class GenerationRequest:
    """A request to generate text up to the first of the texts in `until`."""

    prompt: int
    until: tuple[str, ...]

    def response(self, answers: Sequence[Answer], converter: "RequestConverter") -> str:
        """Return the generated text."""
        return converter.text(answers[self.prompt].tokens, self.until)


@dataclass(frozen=True)
class DocumentPrompts:
    """The prompts of one document, and its requests, which find their responses in the answers."""

    prompts: tuple[Prompt, ...]
    requests: tuple[LoglikelihoodRequest | GenerationRequest, ...]


class RequestConverter(TemplateLM):  # type: ignore[misc]
    """Takes the place of lm-eval's model, and records the prompts for it."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        """`context` is the maximum number of tokens of the models."""
        super().__init__()
        self.tokenizer = tokenizer
        self._conversations = Conversations(tokenizer)
        self._context = context
        self._encode = functools.lru_cache(maxsize=64)(self._encoded)
        self.text = functools.lru_cache(maxsize=65536)(self._text)

    def convert(self, instances: Sequence[Any], name: str) -> DocumentPrompts:
        """Return the prompts of one document, with `shared` set to 0; `with_shared_start` sets it.

        Raises TaskError.
        """
        collector = _PromptCollector()
        requests: list[LoglikelihoodRequest | GenerationRequest] = []
        for instance in instances:
            if instance.request_type == "loglikelihood":
                requests.append(self._continuation(collector, instance, name))
            elif instance.request_type == "generate_until":
                requests.append(self._generated(collector, instance, name))
            else:
                raise TaskError(
                    f"{name}: {instance.request_type} is not supported, because it needs a prompt "
                    "for every token of a document"
                )
        special = frozenset(self.tokenizer.all_special_ids)
        return DocumentPrompts(collector.prompts(special), tuple(requests))

    def _continuation(
        self, collector: "_PromptCollector", instance: Any, name: str
    ) -> LoglikelihoodRequest:
        [(before, tokens)] = self.loglikelihood([instance], disable_tqdm=True)
        if not 0 < len(tokens) <= self._context:
            raise TaskError(
                f"{name}: a continuation has {len(tokens)} tokens, {instance.args[1][:40]!r}; "
                f"it must have 1 to {self._context}"
            )
        window = (before + tokens)[-(self._context + 1) :]
        start = len(window) - len(tokens)
        return LoglikelihoodRequest(
            tuple(
                Step(*collector.add_option(tuple(window[: start + i]), token), token)
                for i, token in enumerate(tokens)
            )
        )

    def _generated(
        self, collector: "_PromptCollector", instance: Any, name: str
    ) -> GenerationRequest:
        context, gen_kwargs = instance.args[:2]
        settings = normalize_gen_kwargs(gen_kwargs, _DEFAULT_MAX_TOKENS)
        if settings["do_sample"]:
            raise TaskError(
                f"{name}: generation_kwargs: sampling (do_sample, temperature above 0) is not "
                "supported, because scores must be reproducible; remove these settings"
            )
        max_tokens = settings.pop("max_gen_toks")
        eos = self.tokenizer.eos_token_id
        end = None if eos is None else self.tokenizer.decode([eos], skip_special_tokens=False)
        until = tuple(handle_stop_sequences(settings.pop("until"), eos=end))
        if invalid := [stop for stop in until if not isinstance(stop, str)]:
            raise TaskError(f"{name}: generation_kwargs.until: {invalid[0]!r:.40} must be a string")
        if unknown := sorted(settings.keys() - _WITHOUT_EFFECT):
            raise TaskError(f"{name}: generation_kwargs.{unknown[0]} is not supported")
        if not 0 < max_tokens < self._context:
            raise TaskError(
                f"{name}: generation_kwargs.max_gen_toks: {max_tokens} must be 1 to "
                f"{self._context - 1}, because the models accept {self._context} tokens"
            )
        tokens = self._for_generation(context)[-(self._context - max_tokens) :]
        stops = self._stops(until) if max_tokens > 1 else frozenset()
        return GenerationRequest(collector.add_generation(tuple(tokens), max_tokens, stops), until)

    def _for_generation(self, context: str) -> list[int]:
        options = {}
        if has_bos_prefix(context, self.tokenizer.bos_token):
            options = {"add_special_tokens": False}
        tokens: list[int] = self.tokenizer.encode(context, **options)
        return tokens

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one converter a study
    def _stops(self, until: tuple[str, ...]) -> frozenset[int]:
        """Return the tokens whose text contains one of `until`."""
        return frozenset(
            token
            for token, text in enumerate(self._vocabulary)
            if any(stop and stop in text for stop in until)
        )

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        tokens = [[token] for token in range(len(self.tokenizer))]
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=False)
        return texts

    def _text(self, tokens: tuple[int, ...], until: tuple[str, ...]) -> str:
        """Return an answer as lm-eval does: without special tokens, and truncated at `until`."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        truncated: str = postprocess_generated_text(text, list(until), None)
        return truncated

    # lm-eval's interface of a model

    @property
    def eot_token_id(self) -> int:
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        token = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else token

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return list(self._encode(string, add_special_tokens))

    def _encoded(self, string: str, special: bool | None) -> tuple[int, ...]:
        if special is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        return tuple(self.tokenizer.encode(string, **options))

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text, without system turns if the template refuses them.

        Raises TaskError if the chat template fails.
        """
        without_system = [turn for turn in messages if turn["role"] != "system"]
        for turns in (messages, without_system):
            try:
                return self._conversations.text(
                    turns,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            except ChatTemplateError as error:
                reason = error
        raise TaskError(
            f"the chat template of the tokenizer fails: {reason}; apply_chat_template: false does "
            "without it"
        )

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[Any]:
        """Return the tokens of each context and continuation instead of log-probabilities."""
        return [(before, tokens) for _, before, tokens in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


class _PromptCollector:
    """Collects the prompts of one document.

    Requests that need log-probabilities after the same tokens share a prompt, up to 128 options.
    """

    def __init__(self) -> None:
        self._by_tokens: dict[tuple[int, ...], list[int]] = {}
        self._prompts: list[tuple[tuple[int, ...], int, list[int], frozenset[int]]] = []

    def add_option(self, tokens: tuple[int, ...], option: int) -> tuple[int, int]:
        """Add an option after these tokens; return the index of its prompt and its index among that
        prompt's options."""
        indices = self._by_tokens.setdefault(tokens, [])
        for index in indices:
            options = self._prompts[index][2]
            if option not in options and len(options) < _MAX_OPTIONS:
                options.append(option)
            if option in options:
                return index, options.index(option)
        indices.append(len(self._prompts))
        self._prompts.append((tokens, 1, [option], frozenset()))
        return indices[-1], 0

    def add_generation(
        self, tokens: tuple[int, ...], max_tokens: int, stops: frozenset[int]
    ) -> int:
        """Add a prompt for generated text; return its index."""
        self._prompts.append((tokens, max_tokens, [], stops))
        return len(self._prompts) - 1

    def prompts(self, special: frozenset[int]) -> tuple[Prompt, ...]:
        """Return the prompts.

        Options among the `special` tokens become stops, so that they are kept in the answer.
        """
        return tuple(
            Prompt(tokens, 0, max_tokens, tuple(options), stops | special.intersection(options))
            for tokens, max_tokens, options, stops in self._prompts
        )


def with_shared_start(documents: Sequence[DocumentPrompts]) -> list[DocumentPrompts]:
    """Return the prompts with `Prompt.shared` set to the length of the common prefix of all
    prompts."""
    shared = shared_start([prompt.tokens for document in documents for prompt in document.prompts])
    return [
        dataclasses.replace(
            document,
            prompts=tuple(dataclasses.replace(p, shared=shared) for p in document.prompts),
        )
        for document in documents
    ]
