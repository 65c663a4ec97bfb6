"""Small questions and a tokenizer of characters."""

from collections.abc import Sequence

from objectives.tasks.task import Question

CHOICE = Question("Which?\n0. a\n1. b\n2. c", "Answer", (1,), (0, 1, 2))


PICK = Question("Pick.\n1. a\n2. b\n3. c\n4. d", "Output", (1, 3, 4), (1, 2, 3, 4))


class Characters:
    """A tokenizer of single characters, with a token before the first."""

    def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(item) for item in text]}

    def encode(self, text: str) -> list[int]:
        return [1, *(ord(c) + 2 for c in text)]

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(t - 2) for t in tokens if t > 1)
