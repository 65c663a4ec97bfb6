"""A warning about answers that reach max_tokens before they are complete."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.trials import RESULT, TrialRecord
from study.search.state import CUT_OFF

from .monitor import Monitor

log = logging.getLogger(__name__)

LIMIT = 0.02
"""The share of cut-off answers beyond which there is a warning."""


@dataclass(frozen=True)
class CutOffShare:
    """The trial with the largest share of cut-off answers in a task."""

    share: float
    trial: int
    baseline: str | None
    """The name of a model or a uniform merge; None for a trial of the search."""

    @property
    def name(self) -> str:
        return self.baseline or f"trial {self.trial}"


def cut_off_shares(records: Sequence[TrialRecord]) -> dict[str, CutOffShare]:
    """Return the largest share of cut-off answers by task, for shares beyond the limit."""
    largest: dict[str, CutOffShare] = {}
    for record in (r for r in records if r.complete):
        counts: Mapping[str, Sequence[int]] = record.attributes.get(RESULT, {}).get(CUT_OFF, {})
        for task, (cut_off, asked) in counts.items():
            share = cut_off / asked
            if share > LIMIT and (task not in largest or share > largest[task].share):
                largest[task] = CutOffShare(share, record.number, record.baseline)
    return largest


def explanation(shares: Mapping[str, CutOffShare]) -> str:
    """Return in one line which tasks have cut-off answers, and the remedy."""
    tasks = "; ".join(f"{task}: {s.share:.0%} of {s.name}" for task, s in shares.items())
    return (
        f"answers reach max_tokens before they are complete ({tasks}); raise the task's "
        "max_tokens, or make the prompt ask for shorter answers"
    )


class CutOffAnswers(Monitor):
    """Warns once per run about each task."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_trials(self, records: Sequence[TrialRecord]) -> None:
        shares = cut_off_shares(records)
        for task in sorted(shares.keys() - self._warned):
            log.warning("warning: %s", explanation({task: shares[task]}))
        self._warned |= shares.keys()
