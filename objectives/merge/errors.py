"""What can be wrong with models and folders. Here, so that commands know it without torch."""


class SourceError(Exception):
    """A source checkpoint cannot be merged: says which model, which tensor, and why.

    What does not print is escaped: the names in a model's files are anybody's.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text))


class ExportError(Exception):
    """A folder cannot be written: says why."""


class MergeError(Exception):
    """A merge has no result: says which tensor, and why."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
