"""A YAML file read with bounds: plain values only, each what it looks like, or a YamlError.

PyYAML's safe loader reads YAML 1.1, in which 1:30 is 90, 010 is 8, and a date that is none ends in
a ValueError of datetime; aliases make a file of a kilobyte a value of gigabytes. Here such things
are refused with their line, and dates are texts.
"""

import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

LARGEST_FILE = 2**18
"""Bytes; the largest study file that is known has 4,000."""
DEEPEST, MOST_VALUES, LONGEST_NUMBER = 50, 10_000, 100
"""Levels of nesting; values, those behind aliases counted each time; characters of a number."""
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


class YamlError(Exception):
    """A file is no YAML of plain values: says the line, what stands there, what would be right."""


def read_yaml(path: Path, loader: "type[PlainLoader] | None" = None) -> Any:
    """The value of a file. Raises YamlError, and OSError if the file cannot be read."""
    return parse_yaml(_bytes(path), loader)


def parse_yaml(data: bytes, loader: "type[PlainLoader] | None" = None) -> Any:
    """The value of UTF-8 or, with a byte order mark, UTF-16 text. Raises YamlError."""
    try:
        return yaml.load(_text(data), Loader=loader or PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        context = (error.context or "").removeprefix("while")
        own = f"{context}, " if error.context == context and context else ""
        what = f"{own}{error.problem or 'is not YAML'}"
        is_ours = isinstance(error, yaml.constructor.ConstructorError)
        raise YamlError(f"{line}{what}" if is_ours else f"is not YAML: {line}{what}") from None
    except yaml.reader.ReaderError as error:
        character = f"U+{error.character:04X}" if isinstance(error.character, int) else "a byte"
        raise YamlError(f"is not YAML: the character {character} is not allowed") from None


def _bytes(path: Path) -> bytes:
    """What a regular file of bounded size holds: nothing is waited for."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise YamlError("is a folder; name the file in it")
    if not stat.S_ISREG(mode):
        raise YamlError("is a pipe or a device; write it to a file first")
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise YamlError(f"has more than {LARGEST_FILE // 1024} KiB; is it another kind of file?")
    return data


def _text(data: bytes) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(f"line {line}: is not UTF-8 text; save the file as UTF-8") from None


class PlainLoader(yaml.SafeLoader):
    """Mappings, lists, texts, numbers, truth values and null; merge keys; each key once."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > DEEPEST:
            raise _wrong(f"nested more than {DEEPEST} levels deep", mark)
        if self._count > MOST_VALUES:
            raise _wrong(f"more than {MOST_VALUES} values; is it another kind of file?", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._size(node)
        return node

    def _size(self, node: Any) -> int:
        """How many values a node stands for. What an alias repeats is counted again."""
        size = self._sizes.get(id(node))
        if size == 0:
            raise _wrong("an alias stands in what it stands for", node.start_mark)
        if size is not None:
            return size
        self._sizes[id(node)] = 0
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        size = 1 + sum(map(self._size, children))
        if size > MOST_VALUES:
            raise _wrong(f"aliases repeat more than {MOST_VALUES} values", node.start_mark)
        self._sizes[id(node)] = size
        return size

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Each key once: looked at here, before merge keys bring in those of other mappings."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a key must be a text or a number", key.start_mark)
            name = "<<" if key.tag == _MERGE else self.construct_object(key, deep=True)
            if name in seen:
                raise _wrong(f"key {key.value} is listed twice", key.start_mark)
            seen.add(name)
        return node

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        wrong = [] if text.isprintable() else [c for c in text if _is_control(c)]
        if wrong:
            raise _wrong(f"a text with the character U+{ord(wrong[0]):04X}", node.start_mark)
        return text

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        text = str(self.construct_scalar(node)).lower()
        if text not in self.bool_values:
            raise _wrong(f"{text} is neither true nor false", node.start_mark)
        return bool(self.bool_values[text])

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Binary and hexadecimal too. Raises where YAML 1.1 and 1.2 read different numbers."""
        text = _number_text(self.construct_scalar(node), node)
        if re.fullmatch(r"[-+]?(0[0-9]+|[0-9]+(:[0-9]+)+)", text):
            raise _wrong(
                f"{text} is another number to YAML 1.1 than to YAML 1.2; write it in decimal, or "
                "in quotes if it is a text",
                node.start_mark,
            )
        try:
            return int(text, 0)
        except ValueError:
            raise _wrong(f"{text} is no whole number", node.start_mark) from None

    def construct_fraction(self, node: yaml.ScalarNode) -> float:
        text = _number_text(self.construct_scalar(node), node)
        try:
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text))
        except ValueError:
            raise _wrong(f"{text} is no decimal number", node.start_mark) from None

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = node.tag.replace(_TAG, "!!")
        raise _wrong(f"the tag {tag} is not supported; write a plain value", node.start_mark)


_CONSTRUCTORS = {
    "str": PlainLoader.construct_text,
    "bool": PlainLoader.construct_truth,
    "int": PlainLoader.construct_whole,
    "float": PlainLoader.construct_fraction,
    "null": PlainLoader.construct_yaml_null,
    "seq": PlainLoader.construct_yaml_seq,
    "map": PlainLoader.construct_yaml_map,
}
PlainLoader.yaml_constructors = {f"{_TAG}{name}": how for name, how in _CONSTRUCTORS.items()}
PlainLoader.yaml_constructors[None] = PlainLoader.refuse_tag
_READ = {f"{_TAG}{name}" for name in ("bool", "int", "float", "null", "merge")}
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _READ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _number_text(value: Any, node: yaml.ScalarNode) -> str:
    text = str(value).replace("_", "").lower()
    if len(text) > LONGEST_NUMBER:
        raise _wrong(f"a number of {len(text)} characters", node.start_mark)
    return text


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs") and character not in "\t\n\r\x85"


def _wrong(problem: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
