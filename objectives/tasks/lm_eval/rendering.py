"""Cache the rendering of lm-eval's templates, which lm-eval compiles each time they are used."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import lm_eval.utils


@contextlib.contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Cache compiled lm-eval templates while the context is active.

    lm-eval itself compiles a template each time it is used.
    """
    environment = lm_eval.utils.env
    environment.from_string = functools.lru_cache(maxsize=64)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string


def cache_rendering(task: Any, docs: Sequence[Any]) -> None:
    """Make a task render each of its templates only once for each document in `docs`."""
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = getattr(getattr(task, "config", None), name, None)
        if isinstance(template, str) and hasattr(task, name):
            setattr(task, name, _cached_by_document(getattr(task, name), docs))


def _cached_by_document(render: Any, docs: Sequence[Any]) -> Any:
    cache: dict[int, Any] = {}
    permanent = {id(doc) for doc in docs}  # other documents may be freed and their ids reused

    def cached(doc: Any, *arguments: Any) -> Any:
        if arguments or id(doc) not in permanent:
            return render(doc, *arguments)
        if id(doc) not in cache:
            cache[id(doc)] = render(doc)
        value = cache[id(doc)]
        return list(value) if isinstance(value, list) else value

    return cached
