"""Requests of lm-eval as prompts of ours, tokenised by its rules.

A continuation of n tokens becomes n prompts of one token each, which asks for its probability
there, so that a model's prefix cache does the rest; prompts that agree are asked once. A request
that generates becomes one prompt.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from objectives.engines.engine import Answer, Prompt
from objectives.errors import TaskError
from objectives.tasks.prompts.prompt import shared_start

_MOST_OPTIONS = 128
"""Of one prompt: vLLM gives no more log-probabilities at once."""
_MOST_TOKENS = 256
"""Of an answer whose task names no limit, as in lm-eval."""
_WITHOUT_EFFECT = {"do_sample", "temperature", "top_p", "top_k"}
"""On a greedy answer."""


@dataclass(frozen=True)
class Step:
    """One token of a continuation: which prompt asks for it, as which of its options."""

    prompt: int
    option: int
    token: int


@dataclass(frozen=True)
class Continuation:
    """A request for the log-probability of a text."""

    steps: tuple[Step, ...]

    def response(self, answers: Sequence[Answer], writer: "Writer") -> tuple[float, bool]:
        """The log-probability, and whether it is what a greedy answer would say."""
        parts = [(answers[step.prompt], step) for step in self.steps]
        return (
            math.fsum(answer.logprobs[step.option] for answer, step in parts),
            all(answer.tokens[:1] == (step.token,) for answer, step in parts),
        )


@dataclass(frozen=True)
class Text:
    """A request for a text that ends before the first of some texts."""

    prompt: int
    until: tuple[str, ...]

    def response(self, answers: Sequence[Answer], writer: "Writer") -> str:
        return writer.text(answers[self.prompt].tokens, self.until)


@dataclass(frozen=True)
class Written:
    """What one document asks: prompts, and how each request's response is read from answers."""

    prompts: tuple[Prompt, ...]
    requests: tuple[Continuation | Text, ...]


class Writer(TemplateLM):  # type: ignore[misc]
    """Stands where lm-eval has a model, and writes down what that would be asked."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        """`context` is the most tokens that the models take."""
        super().__init__()
        self.tokenizer = tokenizer
        self._context = context
        self._encode = functools.lru_cache(maxsize=64)(self._encoded)
        self.text = functools.lru_cache(maxsize=65536)(self._text)

    def written(self, instances: Sequence[Any], name: str) -> Written:
        """The prompts of one document's requests, with nothing shared. Raises TaskError."""
        page = _Page()
        requests: list[Continuation | Text] = []
        for instance in instances:
            if instance.request_type == "loglikelihood":
                requests.append(self._continuation(page, instance, name))
            elif instance.request_type == "generate_until":
                requests.append(self._generated(page, instance, name))
            else:
                raise TaskError(
                    f"{name}: {instance.request_type} is not there: it would take a prompt for "
                    "every token of a document"
                )
        special = frozenset(self.tokenizer.all_special_ids)
        return Written(page.prompts(special), tuple(requests))

    def _continuation(self, page: "_Page", instance: Any, name: str) -> Continuation:
        [(before, tokens)] = self.loglikelihood([instance], disable_tqdm=True)
        if not 0 < len(tokens) <= self._context:
            raise TaskError(
                f"{name}: a continuation has {len(tokens)} tokens, {instance.args[1][:40]!r}; "
                f"it must have 1 to {self._context}"
            )
        window = (before + tokens)[-(self._context + 1) :]
        start = len(window) - len(tokens)
        return Continuation(
            tuple(
                Step(*page.ask(tuple(window[: start + i]), token), token)
                for i, token in enumerate(tokens)
            )
        )

    def _generated(self, page: "_Page", instance: Any, name: str) -> Text:
        context, given = instance.args[:2]
        settings = normalize_gen_kwargs(given, _MOST_TOKENS)
        if settings["do_sample"]:
            raise TaskError(
                f"{name}: generation_kwargs: do_sample and a temperature above 0 draw answers at "
                "random; a study asks greedily, so that a merge has one score: take them out"
            )
        most = settings.pop("max_gen_toks")
        eos = self.tokenizer.eos_token_id
        end = None if eos is None else self.tokenizer.decode([eos], skip_special_tokens=False)
        until = tuple(handle_stop_sequences(settings.pop("until"), eos=end))
        if odd := [stop for stop in until if not isinstance(stop, str)]:
            raise TaskError(f"{name}: generation_kwargs.until: {odd[0]!r:.40} must be a text")
        if unknown := sorted(settings.keys() - _WITHOUT_EFFECT):
            raise TaskError(f"{name}: generation_kwargs.{unknown[0]}: is not there")
        if not 0 < most < self._context:
            raise TaskError(
                f"{name}: generation_kwargs.max_gen_toks: {most} must be from 1 to "
                f"{self._context - 1}: the models take {self._context} tokens"
            )
        tokens = self._for_generation(context)[-(self._context - most) :]
        stops = self._stops(until) if most > 1 else frozenset()
        return Text(page.generate(tuple(tokens), most, stops), until)

    def _for_generation(self, context: str) -> list[int]:
        options = {}
        if has_bos_prefix(context, self.tokenizer.bos_token):
            options = {"add_special_tokens": False}
        tokens: list[int] = self.tokenizer.encode(context, **options)
        return tokens

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one writer a study
    def _stops(self, until: tuple[str, ...]) -> frozenset[int]:
        """The tokens whose text has one of `until` in it."""
        return frozenset(
            token
            for token, text in enumerate(self._vocabulary)
            if any(stop and stop in text for stop in until)
        )

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        every = [[token] for token in range(len(self.tokenizer))]
        texts: list[str] = self.tokenizer.batch_decode(every, skip_special_tokens=False)
        return texts

    def _text(self, tokens: tuple[int, ...], until: tuple[str, ...]) -> str:
        """An answer as lm-eval would give it: no special tokens, and cut."""
        said = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        cut: str = postprocess_generated_text(said, list(until), None)
        return cut

    # what lm-eval asks of a model

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
        """A conversation as one text, without its system turn where the template knows none."""
        render = functools.partial(
            self.tokenizer.apply_chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        try:
            text: str = render(messages)
        except TemplateError:
            text = render([turn for turn in messages if turn["role"] != "system"])
        return text

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[Any]:
        """The tokens of each context and continuation, in place of log-probabilities."""
        return [(before, tokens) for _, before, tokens in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


class _Page:
    """The prompts of one document, each once."""

    def __init__(self) -> None:
        self._asked: dict[tuple[int, ...], list[int]] = {}
        self._prompts: list[tuple[tuple[int, ...], int, list[int], frozenset[int]]] = []

    def ask(self, tokens: tuple[int, ...], option: int) -> tuple[int, int]:
        """Ask for a token after others; gives the prompt and the option of it."""
        places = self._asked.setdefault(tokens, [])
        for place in places:
            options = self._prompts[place][2]
            if option not in options and len(options) < _MOST_OPTIONS:
                options.append(option)
            if option in options:
                return place, options.index(option)
        places.append(len(self._prompts))
        self._prompts.append((tokens, 1, [option], frozenset()))
        return places[-1], 0

    def generate(self, tokens: tuple[int, ...], most: int, stops: frozenset[int]) -> int:
        self._prompts.append((tokens, most, [], stops))
        return len(self._prompts) - 1

    def prompts(self, special: frozenset[int]) -> tuple[Prompt, ...]:
        """`special`: tokens that an engine may leave out of its answer unless they are stops."""
        return tuple(
            Prompt(tokens, 0, most, tuple(options), stops | special.intersection(options))
            for tokens, most, options, stops in self._prompts
        )


def with_shared_start(written: Sequence[Written]) -> list[Written]:
    """The same with what all their prompts have in common marked."""
    shared = shared_start([prompt.tokens for page in written for prompt in page.prompts])
    return [
        dataclasses.replace(
            page,
            prompts=tuple(dataclasses.replace(prompt, shared=shared) for prompt in page.prompts),
        )
        for page in written
    ]
