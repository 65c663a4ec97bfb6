"""Read a YAML file of plain values with limits on its size.

PyYAML's safe loader reads YAML 1.1, in which 1:30 is 90, 010 is 8, and an invalid date raises
datetime's ValueError; aliases can expand a file of a kilobyte to gigabytes. This loader refuses
such values with their line, and reads dates as texts.
"""

import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

MAX_FILE_SIZE = 2**18
"""Bytes; the largest known study file has 4,000."""
MAX_DEPTH, MAX_VALUES, MAX_NUMBER_LENGTH = 50, 10_000, 100
"""Levels of nesting; values, with each use of an alias counted; characters of a number."""
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


class YamlError(Exception):
    """A file is not YAML of plain values; the message names the line and what to change."""


def read_yaml(path: Path, loader: "type[PlainLoader] | None" = None) -> Any:
    """Return the value of a file. Raises YamlError, and OSError if it cannot be read."""
    return parse_yaml(_bytes(path), loader)


def parse_yaml(data: bytes, loader: "type[PlainLoader] | None" = None) -> Any:
    """Return the value of a text in UTF-8 or, with a byte order mark, UTF-16. Raises YamlError."""
    try:
        return yaml.load(_text(data), Loader=loader or PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        context = (error.context or "").removeprefix("while")
        prefix = f"{context}, " if error.context == context and context else ""
        text = f"{prefix}{error.problem or 'is not YAML'}"
        is_ours = isinstance(error, yaml.constructor.ConstructorError)
        raise YamlError(f"{line}{text}" if is_ours else f"is not YAML: {line}{text}") from None
    except yaml.reader.ReaderError as error:
        character = f"U+{error.character:04X}" if isinstance(error.character, int) else "a byte"
        raise YamlError(f"is not YAML: the character {character} is not allowed") from None


def _bytes(path: Path) -> bytes:
    """Return the contents of a regular file of limited size, without blocking on pipes."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise YamlError("is a folder; give the path of a file")
    if not stat.S_ISREG(mode):
        raise YamlError("is a pipe or a device; use a regular file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise YamlError(f"has more than {MAX_FILE_SIZE // 1024} KiB; is this the right file?")
    return data


def _text(data: bytes) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(f"line {line}: is not UTF-8 text; save the file as UTF-8") from None


class PlainLoader(yaml.SafeLoader):
    """Load mappings, lists, texts, numbers, booleans, null and merge keys; refuse repeated keys."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep", mark)
        if self._count > MAX_VALUES:
            raise _error(f"more than {MAX_VALUES} values; is this the right file?", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._size(node)
        return node

    def _size(self, node: Any) -> int:
        """Count the values of a node; each use of an alias counts again."""
        size = self._sizes.get(id(node))
        if size == 0:
            raise _error("an alias refers to a value that contains it", node.start_mark)
        if size is not None:
            return size
        self._sizes[id(node)] = 0
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        size = 1 + sum(map(self._size, children))
        if size > MAX_VALUES:
            raise _error(f"aliases repeat more than {MAX_VALUES} values", node.start_mark)
        self._sizes[id(node)] = size
        return size

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse repeated keys, before merge keys add the keys of other mappings."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be a text or a number", key.start_mark)
            name = "<<" if key.tag == _MERGE else self.construct_object(key, deep=True)
            if name in seen:
                raise _error(f"key {key.value} is listed twice", key.start_mark)
            seen.add(name)
        return node

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        controls = [] if text.isprintable() else [c for c in text if _is_control(c)]
        if controls:
            raise _error(f"a text contains the character U+{ord(controls[0]):04X}", node.start_mark)
        return text

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        text = str(self.construct_scalar(node)).lower()
        if text not in self.bool_values:
            raise _error(f"{text} is neither true nor false", node.start_mark)
        return bool(self.bool_values[text])

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Read an integer, which may be binary or hexadecimal. Refuse numbers that differ between
        YAML 1.1 and 1.2."""
        text = _number_text(self.construct_scalar(node), node)
        if re.fullmatch(r"[-+]?(0[0-9]+|[0-9]+(:[0-9]+)+)", text):
            raise _error(
                f"{text} means different numbers in YAML 1.1 and YAML 1.2; write it in decimal, or "
                "in quotes if it is a text",
                node.start_mark,
            )
        try:
            return int(text, 0)
        except ValueError:
            raise _error(f"{text} is not a whole number", node.start_mark) from None

    def construct_fraction(self, node: yaml.ScalarNode) -> float:
        text = _number_text(self.construct_scalar(node), node)
        try:
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text))
        except ValueError:
            raise _error(f"{text} is not a decimal number", node.start_mark) from None

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = node.tag.replace(_TAG, "!!")
        raise _error(f"the tag {tag} is not supported; write a plain value", node.start_mark)


_CONSTRUCTORS = {
    "str": PlainLoader.construct_text,
    "bool": PlainLoader.construct_truth,
    "int": PlainLoader.construct_whole,
    "float": PlainLoader.construct_fraction,
    "null": PlainLoader.construct_yaml_null,
    "seq": PlainLoader.construct_yaml_seq,
    "map": PlainLoader.construct_yaml_map,
}
PlainLoader.yaml_constructors = {
    f"{_TAG}{name}": constructor for name, constructor in _CONSTRUCTORS.items()
}
PlainLoader.yaml_constructors[None] = PlainLoader.refuse_tag
_RESOLVED = {f"{_TAG}{name}" for name in ("bool", "int", "float", "null", "merge")}
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _number_text(value: Any, node: yaml.ScalarNode) -> str:
    text = str(value).replace("_", "").lower()
    if len(text) > MAX_NUMBER_LENGTH:
        raise _error(
            f"a number has {len(text)} characters; at most {MAX_NUMBER_LENGTH} are allowed",
            node.start_mark,
        )
    return text


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs") and character not in "\t\n\r\x85"


def _error(problem: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
