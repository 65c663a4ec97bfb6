"""Which names a study may have: each names a folder."""

import unicodedata

LONGEST_NAME = 255
"""Bytes of a study's name: what file systems allow."""


def wrong_name(name: str) -> str | None:
    """Say why a study cannot have this name, which is that of its folder too; None if it can."""
    if name in (".", ".."):
        return f"{name!r} is the name of a folder that is there already; choose another name"
    if not name or not all(map(_is_allowed, name)):
        return f"{name[:60]!r} must consist of letters, digits and the characters . _ + -"
    if len(name.encode()) > LONGEST_NAME:
        return f"{name[:20]}... is longer than {LONGEST_NAME} bytes, so no folder can have its name"
    return None


def _is_allowed(character: str) -> bool:
    category = unicodedata.category(character)
    return character in ".+-" or category[0] in "LMN" or category == "Pc"
