"""Texts that come from outside (names of models, tasks, studies and files, questions) in every
medium that they are written to: one function each, so that a name is only ever a name.
"""

import codecs
import html
import re
import sys
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters, line separators, overrides of the writing direction, halves of pairs."""
_PLAIN = {"±": "+/-", "…": "...", "–": "-", "─": "-", "│": "|"}
_ASCII = "merge-study-ascii"

_MARKDOWN = re.compile(
    r"[\\`*\[\]|~$#@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE
)


class Markdown(str):
    """A text that is Markdown already."""


def printable(text: object) -> str:
    """One line for a terminal, a log or a page: what would move the cursor, change colours, begin
    a line or turn the writing direction is shown as an escape sequence."""
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), str(text))


def printable_lines(text: object) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def encodable(text: str, encoding: str | None) -> str:
    """The text with what an encoding lacks in other words: `+/-` for `±` in ASCII."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, _ASCII).decode(encoding)


def say(text: object) -> None:
    """Print a result. Any text can be printed on any terminal."""
    print(encodable(printable_lines(text), getattr(sys.stdout, "encoding", None)))


def markdown(text: object) -> Markdown:
    """A text in Markdown that is shown as it is: in a paragraph, a heading or a table's cell."""
    if isinstance(text, Markdown):
        return text
    plain = html.escape(printable(text), quote=False)
    return Markdown(_MARKDOWN.sub(lambda found: "\\" + found[0], plain))


def markdown_code(text: object) -> Markdown:
    """A code span of Markdown, outside of tables."""
    plain = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return Markdown(f"{fence}{space}{plain}{space}{fence}")


def drawn(text: object) -> str:
    """A text in a figure of matplotlib, which reads $ as mathematics and leaves labels that begin
    with _ out of a legend."""
    plain = printable(text).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def plotted(text: object) -> str:
    """A text in a figure of plotly, which reads some HTML."""
    return html.escape(printable(text), quote=False)


def in_page(value: Any) -> Any:
    """What a template of a page prints, before it escapes HTML itself."""
    return printable(value) if type(value) is str else value


def _escape(character: str) -> str:
    if 0xD800 <= ord(character) <= 0xDFFF:
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, ascii(c)[1:-1]) for c in lacking), error.end


codecs.register_error(_ASCII, _in_ascii)
