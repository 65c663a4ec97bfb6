"""Show one prompt of each task, and the answers of the models of a study to a few questions."""

from dataclasses import dataclass
from typing import Any

from objectives.engines.engine import Answer, Engine, Prompt
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.retrieval import Retrieval
from objectives.tasks.task import Question
from study.setup.engine import EngineChoice
from study.setup.setup import Setup

QUESTIONS = 5
_WIDTH = 60


@dataclass(frozen=True)
class TaskPreview:
    """The first questions of a task, and the models' answers to them."""

    task: str
    prompt: str
    """The first prompt, including its special tokens."""
    questions: list[str]
    right: list[str]
    """The right answer to each question."""
    answers: dict[str, list[tuple[str, bool]]]
    """For each model its answer to each question, and whether the answer's score is above 0."""

    def lines(self) -> list[str]:
        """Return the preview as text."""
        lines = [f"{self.task}: the first prompt", "---", self.prompt, "---"]
        for i, (question, right) in enumerate(zip(self.questions, self.right, strict=True)):
            lines.append(f"{i + 1}. {question}")
            answers = (f"{model} {_marked(*own[i])}" for model, own in self.answers.items())
            lines.append(f"   right: {right}; {', '.join(answers)}")
        return lines


def preview(setup: Setup, choice: EngineChoice) -> list[TaskPreview]:
    """Ask the base and each parent the first search questions of every task.

    Raises EngineError.
    """
    engine = choice.start(setup.sources, setup.longest)
    try:
        return _previews(setup, engine)
    finally:
        engine.close()


def _previews(setup: Setup, engine: Engine) -> list[TaskPreview]:
    tokenizer: Any = setup.search.tokenizer
    tasks = [t for t in setup.search.tasks if isinstance(t, MultipleChoice | Retrieval)]
    cut = [task.with_questions(task.questions[:QUESTIONS]) for task in tasks]
    prompts = [[prompt for [prompt] in task.prompts(tokenizer)] for task in cut]
    previews = [
        TaskPreview(
            task.name,
            tokenizer.decode(prompts_Q[0].tokens).rstrip("\n"),
            [_shortened(question.text) for question in task.questions],
            [_right(question) for question in task.questions],
            {},
        )
        for task, prompts_Q in zip(cut, prompts, strict=True)
    ]
    for baseline in setup.genome.baselines():
        if baseline.kind in ("base", "parent"):
            engine.load(baseline.recipe)
            name = baseline.name.removeprefix("parent ")
            for task, prompts_Q, task_preview in zip(cut, prompts, previews, strict=True):
                answers = zip(task.questions, prompts_Q, engine.answer(prompts_Q), strict=True)
                task_preview.answers[name] = [_scored(task, *a, tokenizer) for a in answers]
    return previews


def _scored(
    task: MultipleChoice | Retrieval,
    question: Question,
    prompt: Prompt,
    answer: Answer,
    tokenizer: Any,
) -> tuple[str, bool]:
    text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
    return " ".join(text.split()), task.score(question, [prompt], [answer], tokenizer) > 0


def _right(question: Question) -> str:
    return ", ".join(question.answer(label) for label in question.labels)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..."


def _marked(answer: str, right: bool) -> str:
    return f'"{answer}"{"" if right else " (wrong)"}'
