"""Few-shot examples of lm-eval's tasks: none of them is a held-out question.

lm-eval draws examples from a split, which may be the one that the questions come from, or may hold
copies of them. Held-out questions are taken out of what is drawn from, for search and held-out
prompts alike. If there are none among it, the prompts stay as lm-eval writes them.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lm_eval.utils
from lm_eval.api.task import ConfigurableTask

from objectives.errors import TaskError
from objectives.tasks.questions.split import held_out
from objectives.tasks.task import Question

log = logging.getLogger(__name__)

Key = tuple[str, ...]


def as_json(doc: Any) -> str:
    """The text of a document: what it is called in splits and fingerprints."""
    return json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)


def held_out_documents(task: Any, share: float) -> frozenset[str]:
    """The held-out documents of a task, as JSON."""
    texts = map(as_json, task.eval_docs) if share else ()
    return frozenset(t for t in texts if held_out(Question(t, "", (), ()), share))


def keep_apart(task: Any, held: frozenset[str]) -> None:
    """Let `task` draw its examples from documents that are not among `held`, nor ask the same.

    Raises TaskError if too few documents are left, or if its own code draws the examples.
    """
    count = task.config.num_fewshot
    if not count:
        return
    if not held:
        _warn_of_own_answers(task)
        return
    name = task.task_name
    if not hasattr(task, "sampler") or type(task).fewshot_context is not _LM_EVALS:
        raise TaskError(
            f"{name}: its own code draws the few-shot examples, so they cannot be kept apart from "
            "held-out questions; set num_fewshot: 0 in its file, or study.held_out: 0"
        )
    documents = list(task.eval_docs)
    with _templates_compiled_once():
        keys = _Keys(task, documents)
        banned: set[Key] = {(text,) for text in held}
        banned.update(*(keys.of(doc) for doc in documents if as_json(doc) in held))
        pool = list(task.sampler.df)
        pool_keys = [keys.of(doc) for doc in pool]
    kept = [k for k, mine in enumerate(pool_keys) if mine.isdisjoint(banned)]
    if len(kept) == len(pool):
        return
    log.info(
        "%s: %d of the %d documents that few-shot examples are drawn from are held-out questions; "
        "examples come from the other %d, in search and held-out prompts alike",
        *(name, len(pool) - len(kept), len(pool), len(kept)),
    )
    if len(kept) <= count:  # one of them may be the question itself
        raise TaskError(
            f"{name}: {count} few-shot examples (num_fewshot) need at least {count + 1} documents "
            f"that are not held out, and there are {len(kept)}; lower num_fewshot or study.held_out"
        )
    _draw_from(task, _Pool([pool[k] for k in kept], [pool_keys[k] for k in kept]), keys, banned)


_LM_EVALS = ConfigurableTask.fewshot_context


class _Keys:
    """What tells whether two documents ask the same: the JSON, and the question as it is asked."""

    def __init__(self, task: Any, documents: Sequence[Any]) -> None:
        self._task = task
        asked = {self._asked(doc, with_target=False) for doc in documents}
        self._with_target = len(asked) == 1  # all prompts agree: the target is the question

    def of(self, doc: Any) -> frozenset[Key]:
        keys = {(as_json(doc),), self._asked(doc, self._with_target)}
        own = self._task.fewshot_cfg.doc_to_text
        if own is not None and own != self._task.config.doc_to_text:
            keys.add(self._asked(doc, self._with_target, own))
        return frozenset(keys - {()})

    def _asked(self, doc: Any, with_target: bool, template: Any = None) -> Key:
        """Empty if the document cannot be rendered, so that no prompt can hold it either."""
        task = self._task
        try:
            text = task.doc_to_text(doc, template)
            has_choices = task.config.doc_to_choice is not None
            options = sorted(map(_plain, task.doc_to_choice(doc))) if has_choices else []
            target = [_plain(task.doc_to_target(doc))] if with_target else []
        except Exception:  # any: it is a template or a hook of the task's
            return ()
        question = _plain(text) if isinstance(text, str) else ""  # an int is the answer
        return ("asked", question, *options, *target)


@dataclass(frozen=True)
class _Pool:
    """What examples are drawn from."""

    documents: Sequence[Any]
    keys: Sequence[frozenset[Key]]

    @functools.cached_property
    def all_keys(self) -> frozenset[Key]:
        return frozenset().union(*self.keys)

    def without(self, keys: frozenset[Key]) -> list[Any]:
        """The documents that ask something else."""
        if self.all_keys.isdisjoint(keys):
            return list(self.documents)
        pairs = zip(self.documents, self.keys, strict=True)
        return [doc for doc, mine in pairs if mine.isdisjoint(keys)]


def _draw_from(task: Any, pool: _Pool, keys: _Keys, banned: set[Key]) -> None:
    """Let the sampler draw from `pool`, never the question that is asked."""
    build, draw = task.fewshot_context, task.sampler.sample

    def fewshot_context(doc: Any, *arguments: Any, **options: Any) -> Any:
        task.sampler.df = pool.without(keys.of(doc))
        return build(doc, *arguments, **options)

    def sample(n: int, eval_doc: Any = None, **options: Any) -> Any:
        examples = draw(n, None, **options)  # the question is not in the pool
        if any(not keys.of(example).isdisjoint(banned) for example in examples):
            raise TaskError(
                f"{task.task_name}: its own sampler (fewshot_config) draws held-out questions as "
                "few-shot examples; take another sampler, num_fewshot: 0 or study.held_out: 0"
            )
        return examples

    task.fewshot_context, task.sampler.sample = fewshot_context, sample


def _warn_of_own_answers(task: Any) -> None:
    """lm-eval leaves the question out of its own examples only if fewshot_split says the split."""
    config = getattr(task, "fewshot_cfg", None)
    if config is None or config.split is not None or config.samples is not None:
        return
    if not task.has_training_docs():
        log.warning(
            "%s: num_fewshot without fewshot_split: lm-eval draws the few-shot examples from the "
            "questions, and one may stand in its own prompt with its answer; set fewshot_split",
            task.task_name,
        )


def _plain(text: Any) -> str:
    return " ".join(str(text).split())


@contextlib.contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """lm-eval compiles a template at every use: here that is once for every document."""
    environment = lm_eval.utils.env
    environment.from_string = functools.lru_cache(maxsize=64)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string
