"""Errors of the storage. Nothing here imports a database driver."""

STUDY_DELETED = "the study was deleted while it ran"


class StorageError(Exception):
    """The database cannot be used: names it without its password, and gives reason and remedy."""


class StudyMismatch(StorageError):
    """The stored study of this name was created with other settings: lists the differences."""
