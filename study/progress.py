"""The progress line: one that stays where stderr is a terminal, else one a generation."""

import logging
import statistics
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from storage.trials import TrialRecord, best

log = logging.getLogger(__name__)

_REMEMBERED = 30
"""Trials over which the pace is taken."""


class Progress:
    """Says after every trial where the search stands: trial, generation, best, pace, time left."""

    def __init__(self, console: Console, budget: int, population: int) -> None:
        self._budget, self._population = budget, population
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._lasting = console.is_terminal
        self._line = ""
        self._told: list[float] = [time.monotonic()]

    def __enter__(self) -> "Progress":
        if self._lasting:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lasting:
            self._live.stop()
            if self._line:
                log.info(self._line)

    def told(self, records: Sequence[TrialRecord]) -> None:
        """Take note of a finished trial."""
        self._told = [*self._told[-_REMEMBERED:], time.monotonic()]
        finished = sum(r.complete and r.kind == "search" for r in records)
        self._line = self.line(records, finished)
        if self._lasting:
            self._live.update(Text(self._line, overflow="ellipsis", no_wrap=True), refresh=True)
        elif finished % self._population == 0:
            log.info(self._line)

    def line(self, records: Sequence[TrialRecord], finished: int) -> str:
        pace = statistics.median(
            after - before for before, after in zip(self._told, self._told[1:], strict=False)
        )
        if not finished:
            return f"baseline {sum(r.complete for r in records)}  {pace:.2f} s/trial"
        top = best([r for r in records if r.kind == "search"])
        assert top is not None
        assert top.value is not None
        doubt = "" if top.error is None else f" ± {top.error:.4f}"
        left = duration(pace * max(0, self._budget - finished))
        return (
            f"trial {finished}/{self._budget}  generation {(finished - 1) // self._population}  "
            f"best {top.value:.4f}{doubt}  {pace:.2f} s/trial  {left} left"
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2])
