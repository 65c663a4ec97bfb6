"""Renders the prompts of a template for one tokenizer, in its chat template where that is wanted.

The chat template is rendered once, around a placeholder; what stands before and after the
placeholder surrounds every question.
"""

from collections.abc import Sequence
from typing import Any

from objectives.tasks.task import Question, Tokenizer

from .conversation import ChatTemplateError, Conversations
from .prompt import Template, TemplateError

_PLACEHOLDER = "@question@"
_DEFAULT_CUE = "Answer"


class Renderer:
    """Renders prompts and encodes them.

    Raises TemplateError if the tokenizer's chat template cannot be used.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self.template = template
        self._tokenizer: Any = tokenizer
        self._before = self._after = ""
        self._in_chat = template.chat and bool(getattr(tokenizer, "chat_template", None))
        if self._in_chat:
            self._before, self._after = self._surroundings()

    def text(self, question: Question) -> str:
        """Return the prompt of a question. Raises TemplateError."""
        if not self._in_chat:
            return self.template.render(question, _DEFAULT_CUE if self.template.chat else "")
        turn = self.template.render_turn(question.text, "").strip()
        return f"{self._before}{turn}{self._after}"

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt, with what follows it. A chat template writes the special
        tokens itself."""
        [tokens] = self.encode_all([text])
        return tokens

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of several texts, encoded in parallel."""
        options = {"add_special_tokens": False} if self._in_chat else {}
        encoded: list[list[int]] = self._tokenizer(list(texts), **options)["input_ids"]
        return encoded

    def _surroundings(self) -> tuple[str, str]:
        """Return the text before and after a question's turn."""
        template = self.template
        messages = []
        if template.preamble.strip():
            messages.append({"role": "system", "content": template.preamble.strip()})
        for example in template.examples:
            turn = template.render_turn(example.question, "").strip()
            messages.append({"role": "user", "content": turn})
            messages.append({"role": "assistant", "content": example.answer})
        messages.append({"role": "user", "content": _PLACEHOLDER})
        parts = self._conversation(messages).split(_PLACEHOLDER)
        if len(parts) != 2:
            raise TemplateError(
                f"template {template.name}: the chat template of the tokenizer does not contain "
                "the question exactly once; use a template without chat"
            )
        return parts[0], parts[1]

    def _conversation(self, messages: list[dict[str, str]]) -> str:
        """Return a conversation as text. If the chat template refuses a system message, its text
        begins the first message of the user."""
        conversations = Conversations(self._tokenizer)
        first, *rest = messages
        attempts = [messages]
        if first["role"] == "system":
            merged = f"{first['content']}\n\n{rest[0]['content']}"
            attempts.append([{"role": "user", "content": merged}, *rest[1:]])
        for attempt in attempts:
            try:
                return conversations.text(
                    attempt, add_generation_prompt=True, enable_thinking=False
                )
            except ChatTemplateError as error:
                reason = str(error)
        raise TemplateError(
            f"template {self.template.name}: the chat template of the tokenizer fails: {reason}; "
            "use a template without chat"
        )
