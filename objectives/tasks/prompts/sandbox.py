"""Run Jinja templates in bounded time and memory, because their source is not trusted.

Every operation is charged to a budget: a constant and the number of characters processed. The size
of a result that may be much longer than its inputs is checked before it is computed. Templates have
no include, no import, no random numbers, and only the listed attributes.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.exceptions import TemplateSyntaxError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from .limits import (
    ITERATION,
    MAX_SOURCE,
    MAX_TEXT,
    PER_CHARACTER,
    PER_RENDER,
    Budget,
    Refused,
    check_call,
    check_product,
    current_budget,
    weighed,
)

_FILTERS = (
    "abs batch capitalize center count d default dictsort e escape first float format indent int "
    "items join last length list lower map max min reject rejectattr replace reverse round select "
    "selectattr slice sort string title trim truncate unique upper wordcount wordwrap"
)
_TEXT_METHODS = (
    "capitalize casefold center count endswith find format index isalnum isalpha isascii "
    "isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip "
    "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip "
    "split splitlines startswith strip swapcase title upper zfill"
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    list: frozenset(("append", "count", "index")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("get", "items", "keys", "values")),
}
_OPEN = (LoopContext, Cycler, Joiner, Namespace)
"""Jinja's own types, of which all public attributes may be read."""


class BoundedTemplate:
    """A compiled template. Its methods may raise any exception, because the template may."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise Refused(f"it has {len(source):,} characters, more than {MAX_SOURCE:,}")
        tree = _ENVIRONMENT.parse(source)
        names = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
        self.asks = "question" in names
        """Whether the template uses the variable `question`."""
        self._budget = Budget(_size(tree))
        self._template = _ENVIRONMENT.from_string(_Guard().visit(tree))

    def render(self, question: str, cue: str) -> str:
        """Return the text of the template for a question."""
        self._budget.left += PER_RENDER + PER_CHARACTER * len(question)
        token = current_budget.set(self._budget)
        try:
            return self._template.render(question=question, cue=cue)
        finally:
            current_budget.reset(token)


def line_of(error: Exception) -> int | None:
    """Return the line of a template in which an error was raised; None if unknown."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, entry = None, error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code.co_filename in ("<unknown>", "<template>"):
            line = entry.tb_lineno
        entry = entry.tb_next
    return line


def _size(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


class _Guard(NodeTransformer):
    """Adds filters that charge for operations which the sandbox does not intercept."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(
            node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends | nodes.Block
        ):
            name = type(node).__name__.lower()
            raise TemplateSyntaxError(f"{name} is not available in a template", node.lineno)
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For):
            node.iter = _filter(node.iter, "_counted", nodes.Const(_size(node)))
        elif isinstance(node, nodes.Compare | nodes.Operand):
            node.expr = _filter(node.expr, "_weighed")
        elif isinstance(node, nodes.Concat):
            return _filter(node.nodes[0], "_concat", *node.nodes[1:])
        elif isinstance(node, nodes.List | nodes.Dict) or _is_tuple(node) or _is_slice(node):
            return _filter(node, "_weighed")
        return node


def _is_tuple(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Tuple) and node.ctx == "load"


def _is_slice(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)


def _filter(node: nodes.Node, name: str, *arguments: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _counted(values: Iterable[Any], size: int) -> Iterator[Any]:
    budget = current_budget.get()
    for value in values:
        budget.charge(ITERATION + size)
        yield value


def _concat(*values: Any) -> str:
    return _joined(_as_text(value) for value in values)


def _joined(parts: Iterable[str]) -> str:
    """Join and charge for the parts of a text; also used as `Environment.concat`."""
    budget, length, texts = current_budget.get(), 0, []
    for part in parts:
        length += len(part)
        budget.charge(len(part) + 1)
        if length > MAX_TEXT:
            raise Refused(f"the text is longer than {MAX_TEXT:,} characters")
        texts.append(part)
    return "".join(texts)


def _as_text(value: Any) -> str:
    if isinstance(value, str | int | float | list | tuple | dict | Undefined) or value is None:
        weighed(value)
        return str(value)
    raise Refused(f"a {type(value).__name__} cannot be converted to text")


@pass_context
def _finalize(_context: Any, value: Any) -> str:
    """Convert a value that a template outputs to text.

    The context argument keeps Jinja from calling it while a template is compiled.
    """
    return _as_text(value)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps Jinja's markers of functions that take a context
    def bounded(*args: Any, **kwargs: Any) -> Any:
        check_call(name, [*args, *kwargs.values()])
        return weighed(function(*args, **kwargs))

    return bounded


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    concat = staticmethod(_joined)

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            optimized=False,  # nothing is computed while a template is compiled
            finalize=_finalize,
        )
        self.globals = {
            name: self.globals[name] for name in ("range", "dict", "cycler", "joiner", "namespace")
        }
        filters: Mapping[str, Any] = self.filters
        self.filters = {name: _bounded(name, filters[name]) for name in _FILTERS.split()}
        self.filters |= {"_counted": _counted, "_weighed": weighed, "_concat": _concat}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _bounded(name, test) for name, test in tests.items()}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        return isinstance(obj, _OPEN) or attr in _METHODS.get(type(obj), ())

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, (*_OPEN, Macro)):
            current_budget.get().charge(current_budget.get().size)
            return True
        return super().is_safe_callable(obj)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, Undefined):
            return __obj()  # raises an error that names the undefined variable
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        name = getattr(__obj, "__name__", type(__obj).__name__).removeprefix("safe_")
        values = [value for key, value in kwargs.items() if not key.startswith("_")]
        check_call(name, [*([owner] if isinstance(owner, str) else []), *args, *values])
        result = weighed(super().call(__context, __obj, *args, **kwargs))
        if isinstance(owner, list):
            weighed(owner)  # it may have grown
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            parts = right if isinstance(right, tuple) else (right,)
            values = [*parts.values()] if isinstance(parts, Mapping) else list(parts)
            check_call("format", [left, *values])
        elif operator in ("*", "**"):
            check_product(operator, left, right)
        return weighed(super().call_binop(context, operator, left, right))


_ENVIRONMENT = _Environment()
