"""The progress line: updated in place on a terminal, else logged once per generation.

The pace counts the trials of all workers.
"""

import logging
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from storage.trials import TrialRecord
from study.cli.text import duration, score_text
from study.search.ascent.history import AscentHistory

from .monitor import Monitor

log = logging.getLogger(__name__)

_OPTIONAL = ("generation", "speed", "questions", "workers")
"""Parts of the line, the first of which is the first to be left out on a narrow terminal."""
_PACE_UPDATES = 30
"""Updates over which the pace is measured."""


class Progress(Monitor):
    """Shows the number of finished trials, the highest score with its 95% interval, the questions
    asked so far, the workers, the pace and the remaining time."""

    def __init__(
        self,
        console: Console,
        budget: int,
        population: int,
        count_workers: Callable[[], int] = lambda: 1,
    ) -> None:
        self._budget, self._population, self._count_workers = budget, population, count_workers
        self._width = console.width if console.is_terminal else None
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._is_live = console.is_terminal
        self._line = ""
        self._counts: list[tuple[float, int]] = []
        self._complete: int | None = None
        self._searching = False
        self._generation: int | None = None

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()
            if self._line:
                log.info(self._line)

    def on_trials(self, records: Sequence[TrialRecord]) -> None:
        complete = sum(r.complete for r in records)
        if complete == self._complete:
            return
        self._complete = complete
        finished = sum(r.complete and r.kind == "search" for r in records)
        self._count(finished, complete)
        generation = finished // self._population
        if self._is_live:
            self._line = self.line(records, finished)
            self._live.update(Text(self._line, overflow="ellipsis", no_wrap=True), refresh=True)
        elif self._generation is not None and generation > self._generation:
            log.info(self.line(records, finished))
        self._generation = generation

    def _count(self, finished: int, complete: int) -> None:
        """Note the time of an update. Baselines take another time than search trials, which are
        therefore counted from the last baseline on."""
        if finished and not self._searching:
            self._counts = [(at, 0) for at, _ in self._counts[-1:]]
            self._searching = True
        count = finished if finished else complete
        self._counts = [*self._counts[-_PACE_UPDATES:], (time.monotonic(), count)]

    def line(self, records: Sequence[TrialRecord], finished: int) -> str:
        """Return the line; `finished` is the number of search trials that are finished."""
        (first, before), (last, after) = self._counts[0], self._counts[-1]
        pace = (last - first) / max(1, after - before)
        speed = f"{pace:.2f} s/trial" if after > before else ""
        if not finished:
            return f"baseline {sum(r.complete for r in records)}  {speed}".rstrip()
        remaining = max(0, self._budget - finished)
        left = duration(pace * remaining) + " left" if speed and remaining else ""
        workers = self._count_workers()
        ascents = AscentHistory.of(records)
        if ascents is None:
            counted = f"trial {finished}/{self._budget}"
            generation = f"generation {(finished - 1) // self._population}"
            score, questions = _highest(records), _asked(records)
        else:
            counted, generation = f"step {finished}/{self._budget}", ""
            score, questions = _losses(ascents), ascents.questions
        parts = {
            "counted": counted,
            "generation": generation,
            "score": score,
            "questions": f"{questions:,} questions",
            "workers": f"{workers} workers" if workers > 1 else "",
            "speed": speed,
            "left": left,
        }
        return _fitted(parts, self._width)


def _fitted(parts: dict[str, str], width: int | None) -> str:
    """Join the parts of the line. If it is wider than the terminal, leave out the less important
    ones."""
    for leave_out in (None, *_OPTIONAL):
        parts = {name: text for name, text in parts.items() if text and name != leave_out}
        line = "  ".join(parts.values())
        if width is None or len(line) <= width:
            break
    return line


def _highest(records: Sequence[TrialRecord]) -> str:
    """Return the highest score of a search trial, which never falls. The best trial may be another
    one: trials are ranked by their objective."""
    scored = [(r.value, r) for r in records if r.kind == "search" and r.value is not None]
    value, record = max(scored, key=lambda pair: pair[0])
    return f"highest score {score_text(value, record.error)}"


def _asked(records: Sequence[TrialRecord]) -> int:
    """Return the number of questions that the search trials have been asked."""
    results = [r.attributes.get("result", {}) for r in records if r.kind == "search"]
    return sum(result.get("asked", 0) for result in results)


def _losses(ascents: AscentHistory) -> str:
    """Return the latest loss, and the loss and the score on the validation questions."""
    latest = [curve.losses[-1] for curve in ascents.ascents.values()]
    text = f"loss {min(latest):.3f}"
    points = [point for curve in ascents.ascents.values() for point in curve.checkpoints[-1:]]
    if points:
        best = min(points, key=lambda point: point.validation_loss)
        text += f"  validation {best.validation_loss:.3f} (score {best.validation_score:.3f})"
    return text
