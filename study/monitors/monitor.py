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
        """Finish; `error` is the exception that ended the run, or None."""

    def on_trials(self, records: Records) -> None:
        """Handle all trials of the study; called each time they have been read."""

    def on_generation(self, records: Records) -> None:
        """Handle all trials; called when a generation, or the whole search, is complete.

        If there are several workers, the worker that finished the generation calls it.
        """


class Monitors(Monitor):
    """Passes every event to several monitors, and logs the errors that they raise."""

    def __init__(self, *monitors: Monitor) -> None:
        self._monitors = list(monitors)
        self._exits = contextlib.ExitStack()
        self._logged: set[str] = set()

    def __enter__(self) -> Self:
        for monitor in list(self._monitors):
            if self._try(monitor, monitor.__enter__):
                self._exits.push(self._exit_of(monitor))
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
            self._try(monitor, lambda m=monitor: m.on_trials(records))  # type: ignore[misc]

    def on_generation(self, records: Records) -> None:
        for monitor in self._monitors:
            self._try(monitor, lambda m=monitor: m.on_generation(records))  # type: ignore[misc]

    def _exit_of(self, monitor: Monitor) -> Callable[..., None]:
        def exit_monitor(*error: object) -> None:
            self._try(monitor, lambda: monitor.__exit__(*error))  # type: ignore[arg-type]

        return exit_monitor

    def _try(self, monitor: Monitor, call: Callable[[], object]) -> bool:
        """Return whether the call succeeded. Log each error once."""
        try:
            call()
        except Exception as error:  # no error of a monitor may end a study
            reason = " ".join(without_secrets(str(error), os.environ).split())[:200]
            text = f"{type(monitor).__name__}: {type(error).__name__}: {reason}"
            if text not in self._logged:
                log.warning("the study continues, but a monitor has failed: %s", text)
            self._logged.add(text)
            return False
        return True
