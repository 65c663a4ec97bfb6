"""Keep held-out questions out of the few-shot examples of lm-eval's tasks.

lm-eval draws examples from a split of documents. This may be the split of the questions, or contain
copies of them. Held-out questions are removed from the documents that examples are drawn from, for
the search prompts and for the held-out prompts. If the pool contains no held-out question,
lm-eval's sampling is unchanged; otherwise the question being asked is excluded as well.
"""

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.task import ConfigurableTask

from objectives.errors import TaskError
from objectives.tasks.questions.split import held_out
from objectives.tasks.task import Question

from .rendering import templates_compiled_once

log = logging.getLogger(__name__)

Key = tuple[str, ...]


def as_json(doc: Any) -> str:
    """Return a document as JSON, which identifies it in splits and fingerprints."""
    return json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)


def held_out_documents(task: Any, share: float) -> frozenset[str]:
    """Return the held-out documents of a task, as JSON."""
    texts = map(as_json, task.eval_docs) if share else ()
    return frozenset(t for t in texts if held_out(Question(t, "", (), ()), share))


def exclude_held_out_from_fewshot(task: Any, held_out_texts: frozenset[str]) -> None:
    """Exclude from a task's few-shot pool every document that repeats a held-out question.

    `held_out_texts` are the held-out documents as JSON; if there are none, only warn if a question
    may be its own example.

    Raises TaskError if too few documents are left, or if the task's own code draws the examples.
    """
    count = task.config.num_fewshot
    if not count:
        return
    if not held_out_texts:
        _warn_if_question_may_be_example(task)
        return
    name = task.task_name
    if not hasattr(task, "sampler") or type(task).fewshot_context is not _LM_EVALS:
        raise TaskError(
            f"{name}: its own code draws the few-shot examples, so held-out questions cannot be "
            "excluded from them; set num_fewshot: 0 in its file, or study.held_out: 0"
        )
    documents = list(task.eval_docs)
    with templates_compiled_once():
        keys = _Keys(task, documents)
        held_out_keys: set[Key] = {(text,) for text in held_out_texts}
        held_out_keys.update(*(keys.of(doc) for doc in documents if as_json(doc) in held_out_texts))
        pool = list(task.sampler.df)
        pool_keys = [keys.of(doc) for doc in pool]
    allowed = [k for k, own in enumerate(pool_keys) if own.isdisjoint(held_out_keys)]
    if len(allowed) == len(pool):
        return
    log.info(
        "%s: %d of the %d documents that few-shot examples are drawn from are, or repeat, held-out "
        "questions; examples come from the other %d, in search and held-out prompts alike",
        *(name, len(pool) - len(allowed), len(pool), len(allowed)),
    )
    if len(allowed) <= count:  # one of them may be the question itself
        raise TaskError(
            f"{name}: {count} few-shot examples (num_fewshot) need at least {count + 1} documents "
            f"that are not held out, but there are {len(allowed)}; lower num_fewshot or "
            "study.held_out"
        )
    allowed_pool = _Pool([pool[k] for k in allowed], [pool_keys[k] for k in allowed])
    _draw_from(task, allowed_pool, keys, held_out_keys)


_LM_EVALS = ConfigurableTask.fewshot_context


class _Keys:
    """Computes keys of documents: two documents with a common key ask the same question.

    The keys are the document as JSON, and the question as it is asked.
    """

    def __init__(self, task: Any, documents: Sequence[Any]) -> None:
        self._task = task
        asked = {self._asked(doc, with_target=False) for doc in documents}
        self._with_target = len(asked) == 1  # all prompts are equal: the target is the question

    def of(self, doc: Any) -> frozenset[Key]:
        """Return the keys of a document."""
        keys = {(as_json(doc),), self._asked(doc, self._with_target)}
        own = self._task.fewshot_cfg.doc_to_text
        if own is not None and own != self._task.config.doc_to_text:
            keys.add(self._asked(doc, self._with_target, own))
        return frozenset(keys - {()})

    def _asked(self, doc: Any, with_target: bool, template: Any = None) -> Key:
        """Return the question as a key; empty if the document cannot be rendered."""
        task = self._task
        try:
            text = task.doc_to_text(doc, template)
            has_choices = task.config.doc_to_choice is not None
            options = sorted(map(_plain, task.doc_to_choice(doc))) if has_choices else []
            target = [_plain(task.doc_to_target(doc))] if with_target else []
        except Exception:  # the task's template or hook may raise any error
            return ()
        question = _plain(text) if isinstance(text, str) else ""  # an int is the answer
        return ("asked", question, *options, *target)


@dataclass(frozen=True)
class _Pool:
    """The documents that examples are drawn from, with their keys."""

    documents: Sequence[Any]
    keys: Sequence[frozenset[Key]]

    @functools.cached_property
    def all_keys(self) -> frozenset[Key]:
        """The keys of all documents."""
        return frozenset().union(*self.keys)

    def without(self, keys: frozenset[Key]) -> list[Any]:
        """Return the documents that have none of these keys."""
        if self.all_keys.isdisjoint(keys):
            return list(self.documents)
        pairs = zip(self.documents, self.keys, strict=True)
        return [doc for doc, own in pairs if own.isdisjoint(keys)]


def _draw_from(task: Any, pool: _Pool, keys: _Keys, held_out_keys: set[Key]) -> None:
    """Make the sampler draw from `pool`, but never the question that is asked."""
    build, draw = task.fewshot_context, task.sampler.sample

    def fewshot_context(doc: Any, *arguments: Any, **options: Any) -> Any:
        task.sampler.df = pool.without(keys.of(doc))
        return build(doc, *arguments, **options)

    def sample(n: int, eval_doc: Any = None, **options: Any) -> Any:
        examples = draw(n, None, **options)  # the question is not in the pool
        if any(not keys.of(example).isdisjoint(held_out_keys) for example in examples):
            raise TaskError(
                f"{task.task_name}: its own sampler (fewshot_config) draws held-out questions as "
                "few-shot examples; choose another sampler, num_fewshot: 0 or study.held_out: 0"
            )
        return examples

    task.fewshot_context, task.sampler.sample = fewshot_context, sample


def _warn_if_question_may_be_example(task: Any) -> None:
    """Warn if a question may be one of its own examples.

    lm-eval 0.4.13 excludes the question that is asked from its examples only if the few-shot split
    equals test_split, also if both are None.
    """
    config, sampler = getattr(task, "fewshot_cfg", None), getattr(task, "sampler", None)
    if config is None or config.split == task.config.test_split:
        return
    pool = set(map(as_json, getattr(sampler, "df", ())))
    if any(as_json(doc) in pool for doc in task.eval_docs):
        log.warning(
            "%s: lm-eval draws the few-shot examples from documents that contain the questions. It "
            "excludes the question that is asked only if fewshot_split equals test_split, so a "
            "prompt may contain its own question and answer; set both to the split of the "
            "questions, or fewshot_split to a split without them",
            task.task_name,
        )


def _plain(text: Any) -> str:
    return " ".join(str(text).split())
