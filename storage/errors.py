"""Errors of the storage. This module imports no database driver."""

from collections.abc import Collection

STUDY_DELETED = "the study was deleted while it ran"


class StorageError(Exception):
    """The database cannot be used.

    The message names the database without its password, the reason, and the remedy.
    """


class StudyMismatch(StorageError):
    """The stored study was created with different settings; the message lists the differences."""

    def __init__(self, message: str, differing: Collection[str] = ()) -> None:
        """`differing` holds the keys of the settings, if these are what differs."""
        super().__init__(message)
        self.differing = frozenset(differing)
