"""Prompt templates: a preamble, worked examples, and the turn that asks a question.

A template is a YAML file. Its `turn` is a Jinja template with the variables `question` and `cue`,
and the answer follows it. The templates in templates/ can be used by their name without extension.
With `chat: true` the turn is a message of the user, in the chat template of the tokenizer if it has
one.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateSyntaxError

from objectives.errors import TaskError
from objectives.files.text_files import UnreadableFile, read_text
from objectives.tasks.questions.labels import short_repr
from objectives.tasks.task import Question

from .sandbox import BoundedTemplate, line_of

_FOLDER = Path(__file__).parent / "templates"
_FIELDS = ("turn", "preamble", "separator", "examples", "chat")
_MAX_BYTES, _MAX_NODES, _MAX_DEPTH = 1 << 17, 5_000, 20


class TemplateError(TaskError):
    """A prompt template is missing or invalid."""


@dataclass(frozen=True)
class Example:
    """A question with its answer, shown before the question that is asked."""

    question: str
    answer: str


@dataclass(frozen=True)
class Template:
    """A prompt template as read from its file."""

    name: str
    turn: str
    preamble: str = ""
    separator: str = "\n\n"
    """The text after each example's answer."""
    examples: tuple[Example, ...] = ()
    chat: bool = False
    """Whether to use the chat template of the tokenizer, if it has one."""

    def render(self, question: Question, default_cue: str = "") -> str:
        """Return the prompt of a question as plain text. Raises TemplateError."""
        text = self._start + self.render_turn(question.text, question.cue or default_cue)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TemplateError(self._message(error)) from None
        return text

    @cached_property
    def _start(self) -> str:
        """The beginning of all prompts: the preamble and the examples."""
        examples = [
            self.render_turn(example.question, "") + example.answer + self.separator
            for example in self.examples
        ]
        return self.preamble + "".join(examples)

    def render_turn(self, question: str, cue: str) -> str:
        """Return the turn of a question. Raises TemplateError."""
        turn = self._turn
        try:
            return turn.render(question, cue)
        except Exception as error:  # a template may cause any error, such as division by zero
            raise TemplateError(self._message(error)) from None

    @cached_property
    def _turn(self) -> BoundedTemplate:
        try:
            turn = BoundedTemplate(self.turn)
        except Exception as error:  # the compilation may cause any error too
            raise TemplateError(self._message(error)) from None
        if not turn.asks:
            raise TemplateError(
                f"template {self.name}: its turn does not contain the question; add "
                "{{ question }}"
            )
        return turn

    def _message(self, error: Exception) -> str:
        line = line_of(error)
        where = f", line {line} of turn" if line is not None else ""
        text = str(error)
        if isinstance(error, TemplateSyntaxError):
            text = error.message or ""
        if isinstance(error, RecursionError):
            text = "it recurses or is nested too deeply"
        return f"template {self.name}{where}: {text[:300] or type(error).__name__}"


def named_templates() -> list[str]:
    """Return the names of the templates that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_template(name: str, folder: Path, shots: int | None = None) -> Template:
    """Load a template by its name, or from a file relative to `folder`.

    Only its first `shots` examples are used; None uses all. Raises TemplateError.
    """
    path = _FOLDER / f"{name}.yaml" if name in named_templates() else folder / name
    try:
        text = read_text(path, _MAX_BYTES)
    except FileNotFoundError:
        raise TemplateError(
            f"no template {name}: {path} does not exist; the built-in templates are "
            f"{', '.join(named_templates())}"
        ) from None
    except UnreadableFile as error:
        raise TemplateError(f"template {name}: {error}") from None
    try:
        data = yaml.load(text, Loader=_TextLoader)
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise TemplateError(f"cannot read template {path}: {problem}") from None
    template = _template(name, data)
    if shots is None:
        return template
    if shots > len(template.examples):
        raise TemplateError(
            f"num_fewshot is {shots}, but template {name} has {len(template.examples)} examples"
        )
    return replace(template, examples=template.examples[:shots])


class _TextLoader(yaml.SafeLoader):
    """Reads every scalar except null as text, for example 1, yes and 2024-01-01."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":null", ":str", ":seq", ":map"))
    }
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > _MAX_DEPTH or self.nodes > _MAX_NODES:
            raise yaml.YAMLError("it is nested too deeply, or has too many values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"key {short_repr(key.value)} is repeated, line {line}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _template(name: str, data: Any) -> Template:
    turn = data.get("turn") if isinstance(data, dict) else None
    if not isinstance(turn, str):
        raise TemplateError(f"template {name} needs the key `turn`, whose value is a string")
    if unknown := set(data) - set(_FIELDS):
        key = min(map(str, unknown))
        key = key if key.isidentifier() else short_repr(key)
        raise TemplateError(
            f"template {name}: unknown key {key}; must be one of {', '.join(_FIELDS)}"
        )
    chat = data.pop("chat", None) or "false"
    if chat not in ("true", "false"):
        raise TemplateError(
            f"template {name}: chat is {short_repr(chat)}; it must be true or false"
        )
    for key in ("preamble", "separator"):
        if data.get(key) is None:
            data.pop(key, None)
        elif not isinstance(data[key], str):
            text = short_repr(data[key])
            raise TemplateError(f"template {name}: {key} is {text}; it must be a string")
    examples = data.pop("examples", None) or []
    if not isinstance(examples, list):
        raise TemplateError(
            f"template {name}: examples must be a list of mappings with question and answer"
        )
    parsed = tuple(_example(name, entry) for entry in examples)
    return Template(name, examples=parsed, chat=chat == "true", **data)


def _example(name: str, entry: Any) -> Example:
    question, answer = (
        (entry.get("question"), entry.get("answer")) if isinstance(entry, dict) else (None, None)
    )
    if not isinstance(question, str) or not isinstance(answer, str):
        raise TemplateError(
            f"template {name}: an example is {short_repr(entry)}; it must have the "
            "strings question and answer"
        )
    return Example(question.strip(), answer)
