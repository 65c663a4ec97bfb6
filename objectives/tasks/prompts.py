"""Prompt templates: a preamble, worked examples, and the turn that asks a question.

A template is a YAML file; `turn` is Jinja with `question` and `cue`, and ends where the answer
begins. Templates that come with the project stand in templates/ and are named without ending.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from objectives.engines.engine import Prompt
from objectives.errors import TaskError

from .task import Question, Tokenizer

_FOLDER = Path(__file__).parent / "templates"
_JINJA = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_FIELDS = {"preamble", "turn", "separator", "examples"}


class TemplateProblem(TaskError):
    """A prompt template is missing or broken."""


@dataclass(frozen=True)
class Example:
    question: str
    answer: str


@dataclass(frozen=True)
class Template:
    name: str
    turn: str
    preamble: str = ""
    separator: str = "\n\n"
    """Stands after each example's answer."""
    examples: tuple[Example, ...] = ()

    def render(self, question: Question) -> str:
        shots = [
            self._ask(shot.question, "") + shot.answer + self.separator for shot in self.examples
        ]
        return self.preamble + "".join(shots) + self._ask(question.text, question.cue)

    def _ask(self, question: str, cue: str) -> str:
        try:
            return self._turn.render(question=question, cue=cue)
        except TemplateError as error:
            raise TemplateProblem(f"template {self.name}: {error}") from None

    @cached_property
    def _turn(self) -> jinja2.Template:
        return _JINJA.from_string(self.turn)


def named_templates() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_template(name: str, folder: Path, shots: int | None = None) -> Template:
    """A template by name, or by a file relative to `folder`, with its first `shots` examples.

    Raises TemplateProblem.
    """
    path = _FOLDER / f"{name}.yaml" if name in named_templates() else folder / name
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TemplateProblem(
            f"no template {name}: {path} does not exist; named ones are "
            f"{', '.join(named_templates())}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateProblem(f"cannot read template {path}: {error}") from None
    template = _template(name, data)
    if shots is None:
        return template
    if shots > len(template.examples):
        raise TemplateProblem(f"template {name} has {len(template.examples)} examples, not {shots}")
    return Template(
        name, template.turn, template.preamble, template.separator, template.examples[:shots]
    )


def _template(name: str, data: Any) -> Template:
    if not isinstance(data, dict) or not isinstance(data.get("turn"), str):
        raise TemplateProblem(f"template {name} needs a text `turn`")
    if unknown := set(data) - _FIELDS:
        raise TemplateProblem(f"template {name}: unknown key {min(map(str, unknown))}")
    try:
        examples = tuple(
            Example(str(e["question"]).strip(), str(e["answer"])) for e in data.pop("examples", [])
        )
    except (TypeError, KeyError):
        raise TemplateProblem(f"template {name}: an example needs question and answer") from None
    return Template(name, examples=examples, **data)


def prompts(
    task: str,
    questions: Sequence[Question],
    template: Template,
    tokenizer: Tokenizer,
    max_tokens: int,
    continuation: Callable[[int], str],
) -> list[tuple[Prompt, ...]]:
    """One prompt for each question.

    `continuation` gives the text of an answer that begins with an option. Raises TaskError where
    an option is no token of its own after the prompt.
    """
    texts = [template.render(question) for question in questions]
    encoded = [tuple(tokens) for tokens in tokenizer(texts)["input_ids"]] if texts else []
    shared = shared_start(encoded)
    known: dict[tuple[str, int], int] = {}
    made: list[tuple[Prompt, ...]] = []
    for question, text, tokens in zip(questions, texts, encoded, strict=True):
        for option in question.options:
            if (question.cue, option) not in known:
                known[question.cue, option] = _first_token(
                    task, text, tokens, continuation(option), tokenizer
                )
        options = tuple(known[question.cue, option] for option in question.options)
        made.append((Prompt(tokens, shared, max_tokens, options),))
    return made


def shared_start(encoded: Sequence[tuple[int, ...]]) -> int:
    """Leading tokens that all have in common, with at least one left to each."""
    if len(encoded) < 2:
        return 0
    first, last = min(encoded), max(encoded)
    most = min(map(len, encoded)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def _first_token(
    task: str, text: str, tokens: tuple[int, ...], answer: str, tokenizer: Tokenizer
) -> int:
    """The token that an answer begins with, right after the prompt."""
    for space in ("", " ", "\n"):
        whole = tuple(tokenizer.encode(text + space + answer))
        if len(whole) > len(tokens) and whole[: len(tokens)] == tokens:
            return whole[len(tokens)]
    raise TaskError(
        f"{task}: after the prompt's end {text[-12:]!r} the tokenizer has no token for the answer "
        f"{answer!r}; let the template's turn end in a line break"
    )
