"""Build the prompts of a task's questions, with the first tokens of their options."""

from collections.abc import Sequence

from objectives.engines.engine import Prompt
from objectives.errors import TaskError
from objectives.tasks.task import Question, Tokenizer

from .chat import Renderer
from .prompt import Template, TemplateError


def prompts(
    task: str,
    questions: Sequence[Question],
    template: Template,
    tokenizer: Tokenizer,
    max_tokens: int,
    after: str = "",
) -> list[tuple[Prompt, ...]]:
    """Return one prompt for each question.

    `after` is the text that follows an option in an answer. Raises TaskError if an option does not
    begin with a token of its own after the prompt, and TemplateError.
    """
    renderer = Renderer(template, tokenizer)
    texts = [renderer.text(question) for question in questions]
    if len(texts) > 1 and len(set(texts)) == 1:
        raise TemplateError(
            f"template {template.name}: all {len(texts)} questions have the same prompt; add "
            "{{ question }} to its turn"
        )
    encoded = [tuple(tokens) for tokens in renderer.encode_all(texts)] if texts else []
    shared = shared_start(encoded)
    first_tokens: dict[tuple[str, str], int] = {}
    prompts_Q: list[tuple[Prompt, ...]] = []
    for question, text, tokens in zip(questions, texts, encoded, strict=True):
        names = [question.answer(option) for option in question.options]
        for name in names:
            if (question.cue, name) not in first_tokens:
                first_tokens[question.cue, name] = _first_token(
                    task, text, tokens, name + after, renderer
                )
        options = tuple(first_tokens[question.cue, name] for name in names)
        prompts_Q.append((Prompt(tokens, shared, max_tokens, options),))
    return prompts_Q


def shared_start(encoded: Sequence[tuple[int, ...]]) -> int:
    """Return the length of the longest common prefix that is shorter than every sequence."""
    if len(encoded) < 2:
        return 0
    first, last = min(encoded), max(encoded)
    longest = min(map(len, encoded)) - 1
    return next((i for i in range(longest) if first[i] != last[i]), longest)


def _first_token(
    task: str, text: str, tokens: tuple[int, ...], answer: str, renderer: Renderer
) -> int:
    """Return the first token of an answer after the prompt. Raises TaskError."""
    for space in ("", " ", "\n"):
        whole = tuple(renderer.encode(text + space + answer))
        if len(whole) > len(tokens) and whole[: len(tokens)] == tokens:
            return whole[len(tokens)]
    raise TaskError(
        f"{task}: after the end of the prompt {text[-12:]!r} the tokenizer has no token for the "
        f"answer {answer!r}; end the template's turn with a line break"
    )
