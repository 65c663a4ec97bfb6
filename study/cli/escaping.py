"""Escape external texts (names of models, tasks, studies and files, questions) for each output
format.
"""

import codecs
import html
import re
import sys
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters, line separators, bidirectional overrides and surrogates."""
_PLAIN = {"±": "+/-", "…": "...", "–": "-", "─": "-", "│": "|"}
_ASCII = "merge-study-ascii"

_MARKDOWN = re.compile(
    r"[\\`*\[\]|~$#@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE
)


class Markdown(str):
    """A text that is already Markdown."""


def printable(text: object) -> str:
    """Return a text as one line for a terminal, a log or a page.

    Characters that would move the cursor, change colours, start a line or change the writing
    direction are replaced by escape sequences.
    """
    return _UNPRINTABLE.sub(lambda match: _escape(match[0]), str(text))


def printable_lines(text: object) -> str:
    """Apply `printable` to each line of a text."""
    return "\n".join(map(printable, str(text).split("\n")))


def encodable(text: str, encoding: str | None) -> str:
    """Replace the characters that an encoding does not have, for example `±` by `+/-` in ASCII."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, _ASCII).decode(encoding)


def say(text: object) -> None:
    """Print a result; characters that the terminal cannot print are replaced."""
    print(encodable(printable_lines(text), getattr(sys.stdout, "encoding", None)))


def markdown(text: object) -> Markdown:
    """Escape a text for Markdown: for a paragraph, a heading or a table's cell."""
    if isinstance(text, Markdown):
        return text
    plain = html.escape(printable(text), quote=False)
    return Markdown(_MARKDOWN.sub(lambda match: "\\" + match[0], plain))


def markdown_code(text: object) -> Markdown:
    """Return a text as a code span of Markdown, for use outside of tables."""
    plain = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return Markdown(f"{fence}{space}{plain}{space}{fence}")


def for_matplotlib(text: object) -> str:
    """Escape a text for matplotlib, which reads $ as mathematics and omits labels that begin with _
    from legends."""
    plain = printable(text).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def for_plotly(text: object) -> str:
    """Escape a text for plotly, which reads some HTML."""
    return html.escape(printable(text), quote=False)


def for_template(value: Any) -> Any:
    """Escape a value for a page's template, which escapes HTML afterwards."""
    return printable(value) if type(value) is str else value


def _escape(character: str) -> str:
    if 0xD800 <= ord(character) <= 0xDFFF:
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, ascii(c)[1:-1]) for c in missing), error.end


codecs.register_error(_ASCII, _in_ascii)
