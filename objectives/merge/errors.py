"""What can be wrong with models and folders. Here, so that commands know it without torch."""


class SourceError(Exception):
    """A source checkpoint cannot be merged: says which model, which tensor, and why."""


class ExportError(Exception):
    """A folder cannot be written: says why."""


class MergeError(Exception):
    """A merge has no result: says which tensor, and why."""
