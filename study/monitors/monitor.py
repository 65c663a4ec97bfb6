"""Monitors observe a running study. None of them can change it or end it."""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from objectives.crash_report import without_secrets
from storage.trials import TrialRecord

log = logging.getLogger(__name__)

Records = Sequence[TrialRecord]


class Monitor:
    """An observer of a study. It is entered before the search and left after it.

    A subclass overrides what it needs.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish. `error` is what ended the run early, or None."""

    def on_trials(self, records: Records) -> None:
        """Called with all trials of the study each time they have been read."""

    def on_generation(self, records: Records) -> None:
        """Called with all trials when a generation, or the whole search, is complete.

        Of several workers the one calls it that finished the generation.
        """


class Monitors(Monitor):
    """Passes every event to some monitors. An error of one is logged and goes no further."""

    def __init__(self, *monitors: Monitor) -> None:
        self._monitors = list(monitors)
        self._exits = contextlib.ExitStack()
        self._logged: set[str] = set()

    def __enter__(self) -> Self:
        for monitor in list(self._monitors):
            if self._guarded(monitor, monitor.__enter__):
                self._exits.push(self._guarded_exit(monitor))
            else:
                self._monitors.remove(monitor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def on_trials(self, records: Records) -> None:
        for monitor in self._monitors:
            self._guarded(monitor, lambda m=monitor: m.on_trials(records))  # type: ignore[misc]

    def on_generation(self, records: Records) -> None:
        for monitor in self._monitors:
            self._guarded(monitor, lambda m=monitor: m.on_generation(records))  # type: ignore[misc]

    def _guarded_exit(self, monitor: Monitor) -> Callable[..., None]:
        def leave(*error: object) -> None:
            self._guarded(monitor, lambda: monitor.__exit__(*error))  # type: ignore[arg-type]

        return leave

    def _guarded(self, monitor: Monitor, call: Callable[[], object]) -> bool:
        """Return whether the call succeeded. The same error is logged once."""
        try:
            call()
        except Exception as error:  # observers may fail in any way, and a study goes on
            reason = " ".join(without_secrets(str(error), os.environ).split())[:200]
            text = f"{type(monitor).__name__}: {type(error).__name__}: {reason}"
            if text not in self._logged:
                log.warning("the study goes on without a part of its monitoring: %s", text)
            self._logged.add(text)
            return False
        return True
