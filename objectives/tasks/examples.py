"""Turns the questions of tasks into examples for a gradient engine.

Q: questions of one task.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from objectives.engines.engine import Prompt
from objectives.engines.gradient.examples import Alternative, Example, Target
from objectives.errors import NotLearnable, TaskError
from objectives.tasks.prompts.chat import Renderer

from .multiple_choice import MultipleChoice
from .retrieval import Retrieval, parse_answer
from .task import Asked, Question, Tokenizer

if TYPE_CHECKING:
    from .lm_eval.task import Document, Leaf, LmEvalTask

T = TypeVar("T", bound=Question)
_SPACES = ("", " ", "\n")
_BETWEEN = (",", ", ")
_MAX_TARGET_TOKENS = 256
"""The maximum number of target tokens that are learned."""


def examples(
    task: Asked, prompts_Q: Sequence[tuple[Prompt, ...]], tokenizer: Tokenizer
) -> list[Example]:
    """Return an example for each question of a task.

    Raises NotLearnable if the kind of task or a question has no text to learn from, and TaskError
    if a task of lm-eval fails.
    """
    maximized = task.weight >= 0
    if isinstance(task, MultipleChoice):
        pairs = zip(task.questions, prompts_Q, strict=True)
        return [
            _multiple_choice_example(question, prompt, maximized) for question, [prompt] in pairs
        ]
    if isinstance(task, Retrieval):
        pairs = zip(task.questions, prompts_Q, strict=True)
        renderer = Renderer(task.template, tokenizer)
        return [
            _retrieval_example(task.name, q, prompt, renderer, tokenizer, maximized)
            for q, [prompt] in pairs
        ]
    from .lm_eval.task import LmEvalTask

    if not isinstance(task, LmEvalTask):
        raise NotLearnable(f"{task.name}: a search by gradient cannot learn from this kind of task")
    return [_document(task, document, maximized) for document in task.questions]


def question_shares(tasks: Sequence[Asked]) -> list[list[float]]:
    """Return the share of each question of each task in the objective, in absolute value. All
    shares add up to 1."""
    total = sum(abs(task.weight) for task in tasks)
    return [[abs(task.weight) / total * share for share in _shares(task)] for task in tasks]


def validation_split(questions: Sequence[T], share: float) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Split questions into those to learn from and a `share` for validation.

    The hash differs from the one that holds questions out of the search. Each part keeps the order
    of `questions`. If `share` is above 0 and there are at least two questions, neither part is
    empty."""
    order = sorted(questions, key=lambda q: hashlib.blake2b(b"kept out %d" % q.id).digest())
    count = min(max(1, round(share * len(order))), len(order) - 1) if share > 0 else 0
    in_validation = {id(question) for question in order[:count]}
    training = tuple(q for q in questions if id(q) not in in_validation)
    validation = tuple(q for q in questions if id(q) in in_validation)
    return training, validation


def _shares(task: Asked) -> Iterator[float]:
    """Yield the share of each question in the score of its task."""
    if getattr(task, "by_size", True):
        yield from [1 / len(task.questions)] * len(task.questions)
        return
    leaves = [getattr(question, "leaf", 0) for question in task.questions]
    for leaf in leaves:
        yield 1 / (len(set(leaves)) * leaves.count(leaf))


def _multiple_choice_example(question: Question, prompt: Prompt, maximized: bool) -> Example:
    """Return an example whose alternatives are the tokens of the options."""
    right = {prompt.options[question.options.index(label)] for label in question.labels}
    position = len(prompt.tokens) - 1
    return Example(
        (prompt.tokens,),
        tuple(
            Alternative(0, (Target(position, (token,)),), token in right)
            for token in dict.fromkeys(prompt.options)
        ),
        maximized,
    )


def _retrieval_example(
    name: str,
    question: Question,
    prompt: Prompt,
    renderer: Renderer,
    tokenizer: Tokenizer,
    maximized: bool,
) -> Example:
    """Return an example with one alternative: the labels in ascending order. At the first token
    of a label, the first token of any remaining label counts as right. The score is the mean
    log-probability of the tokens."""
    text, count = renderer.text(question), len(prompt.tokens)
    for space in _SPACES:
        for between in _BETWEEN:
            encoder = _LabelListEncoder(text + space, between, renderer)
            whole = encoder.tokens(question.labels, ended=True)
            said = tokenizer.decode(whole[count:], skip_special_tokens=True)
            if whole[:count] == prompt.tokens and parse_answer(said) == list(question.labels):
                targets = encoder.targets(question.labels, whole, count)
                right = Alternative(0, targets, True, float(len(targets)))
                return Example((whole[:-1],), (right,), maximized)
    raise NotLearnable(
        f"{name}: the answer {','.join(map(str, question.labels))} cannot be encoded after "
        f"the prompt's end {text[-12:]!r} with this tokenizer"
    )


class _LabelListEncoder:
    """Encodes lists of labels that follow a text."""

    def __init__(self, text: str, between: str, renderer: Renderer) -> None:
        self._text, self._between, self._renderer = text, between, renderer

    def tokens(self, labels: Sequence[int], ended: bool) -> tuple[int, ...]:
        """Return the tokens of the text and the labels, with a trailing comma if not `ended`."""
        listed = self._between.join(map(str, labels)) + ("" if ended else ",")
        return tuple(self._renderer.encode(self._text + listed))

    def targets(
        self, labels: Sequence[int], whole: tuple[int, ...], start: int
    ) -> tuple[Target, ...]:
        """Return a target for each token from `start` on. At the first token of a label,
        the first token of any remaining label counts as right."""
        begins = {start: 0}
        for i in range(1, len(labels)):
            before = self.tokens(labels[:i], ended=False)
            if whole[: len(before)] == before:
                begins[len(before)] = i
        targets = []
        for place in range(start, len(whole)):
            tokens = [whole[place]]
            if place in begins:
                i = begins[place]
                for other in labels[i + 1 :]:
                    row = self.tokens((*labels[:i], other), ended=i == len(labels) - 1)
                    if row[:place] == whole[:place] and len(row) > place:
                        tokens.append(row[place])
            targets.append(Target(place - 1, tuple(dict.fromkeys(tokens))))
        return tuple(targets)


def _document(task: "LmEvalTask", document: "Document", maximized: bool) -> Example:
    """Return the example of a document of lm-eval. Raises TaskError."""
    from .lm_eval.checks import errors_as_task_error

    leaf = task.leaves[document.leaf]
    with errors_as_task_error(leaf.name, f"document {document.number} cannot be learned"):
        return _example_of(leaf, document, maximized)


def _example_of(leaf: "Leaf", document: "Document", maximized: bool) -> Example:
    """Return the example of a document, by the output type of its task."""
    kind = leaf.task.OUTPUT_TYPE
    doc = leaf.instances[document.number][0].doc
    if kind == "multiple_choice":
        golds = _gold(leaf, document.number)
        return _continuations_example(leaf, document.number, golds, maximized)
    if kind == "loglikelihood":
        return _continuations_example(leaf, document.number, [0], maximized)
    if kind == "generate_until":
        return _generation_example(leaf, document.number, leaf.task.doc_to_target(doc), maximized)
    raise TaskError(f"{leaf.name}: {kind} has no right answer to learn")


def _choice_count(leaf: "Leaf", number: int) -> int:
    """Return the number of requests of a document that ask for its choices."""
    count = len(leaf.instances[number])
    if "acc_mutual_info" in getattr(leaf.task, "_metric_fn_list", {}):
        count //= 2  # the rest asks for the choices without their context
    return count


def _gold(leaf: "Leaf", number: int) -> list[int]:
    """Return the indices of the right choices. Raises TaskError."""
    task, doc = leaf.task, leaf.instances[number][0].doc
    source = "doc_to_text" if getattr(task, "multiple_input", 0) else "doc_to_target"
    original = right = getattr(task, source)(doc)
    if isinstance(right, str):
        choices = task.doc_to_choice(doc)
        right = choices.index(right) if right in choices else -1
    golds = right if isinstance(right, list) else [right]
    count = _choice_count(leaf, number)
    if not golds or not all(type(gold) is int and 0 <= gold < count for gold in golds):
        raise TaskError(
            f"{leaf.name}: {source} is {original!r}, which is not one of the {count} choices"
        )
    return golds


def _continuations_example(leaf: "Leaf", number: int, golds: list[int], maximized: bool) -> Example:
    """Return an example whose alternatives are continuations.

    The length of an alternative is its number of characters if the metric is acc_norm, else 1;
    acc_bytes and acc_mutual_info are treated as acc.
    """
    from .lm_eval.prompts import LoglikelihoodRequest

    converted, instances = leaf.converted[number], leaf.instances[number]
    sequences, alternatives = [], []
    for i, request in enumerate(converted.requests[: _choice_count(leaf, number)]):
        if not isinstance(request, LoglikelihoodRequest):
            raise TaskError(f"{leaf.name}: a {type(request).__name__} has no log-probability")
        steps = request.steps
        prompt = converted.prompts[steps[0].prompt].tokens
        tokens = [step.token for step in steps]
        sequences.append((*prompt, *tokens[:-1]))
        targets = tuple(Target(len(prompt) - 1 + n, (token,)) for n, token in enumerate(tokens))
        normed = leaf.metric.startswith("acc_norm")
        length = float(max(1, len(instances[i].args[1].strip()))) if normed else 1.0
        alternatives.append(Alternative(i, targets, i in golds, length))
    return Example(tuple(sequences), tuple(alternatives), maximized)


def _generation_example(leaf: "Leaf", number: int, target: Any, maximized: bool) -> Example:
    """Return an example with one alternative: the first target text, truncated to 256 tokens."""
    text = target[0] if isinstance(target, list) and target else target
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(
            f"{leaf.name}: its doc_to_target gives {target!r}, no text to learn; a search by "
            "gradient needs one, or a task of kind multiple_choice or loglikelihood"
        )
    converted = leaf.converted[number]
    prompt = converted.prompts[getattr(converted.requests[0], "prompt", 0)].tokens
    delimiter = getattr(leaf.task.config, "target_delimiter", " ")
    answer = leaf.converter.tok_encode(delimiter + text, add_special_tokens=False)
    answer = answer[:_MAX_TARGET_TOKENS]
    whole = (*prompt, *answer)
    targets = tuple(Target(len(prompt) - 1 + n, (token,)) for n, token in enumerate(answer))
    return Example((whole[:-1],), (Alternative(0, targets, True, float(len(targets))),), maximized)
