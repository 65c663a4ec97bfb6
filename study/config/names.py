"""Check the names of studies, which are names of folders too."""

import unicodedata

MAX_NAME_LENGTH = 255
"""Bytes of a study's name: the limit of file systems."""


def name_error(name: str) -> str | None:
    """Return why a study cannot have this name, or None if it can."""
    if name in (".", ".."):
        return f"{name!r} is reserved by the file system; choose another name"
    if not name or not all(map(_is_allowed, name)):
        return f"{name[:60]!r} must consist of letters, digits and the characters . _ + -"
    if len(name.encode()) > MAX_NAME_LENGTH:
        return f"{name[:20]}... is longer than {MAX_NAME_LENGTH} bytes; choose a shorter name"
    return None


def _is_allowed(character: str) -> bool:
    category = unicodedata.category(character)
    return character in ".+-" or category[0] in "LMN" or category == "Pc"
