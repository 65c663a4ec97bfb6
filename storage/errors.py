"""Errors of the storage."""


class StudyMismatch(Exception):
    """A stored study of this name has other contents: the differences are listed."""


DELETED = "the study was deleted while it ran"


class StorageError(Exception):
    """The database cannot be used: says which (without its password), why, and what to do."""
