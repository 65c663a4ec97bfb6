"""End a run after repeated failures."""

from typing import TypeAlias

from objectives.errors import EngineError, ScorerError

FAILURES_IN_A_ROW = 3
Failure: TypeAlias = EngineError | ScorerError
"""An error after which a trial is retried."""


class Failures:
    """Counts the failures since the last success."""

    def __init__(self) -> None:
        self._count = 0

    def reset(self) -> None:
        """Record a success."""
        self._count = 0

    def add(self, error: Failure) -> None:
        """Record a failure. Raises EngineError or ScorerError if it is the third in a row."""
        self._count += 1
        if self._count == FAILURES_IN_A_ROW:
            kind = ScorerError if isinstance(error, ScorerError) else EngineError
            raise kind(f"{FAILURES_IN_A_ROW} trials failed in a row; the last error: {error}")
