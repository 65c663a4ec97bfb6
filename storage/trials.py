"""What is saved with a trial, read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from .database import Database

BASELINE, KIND, TASKS, RESULT, FAILURE = "baseline", "kind", "tasks", "result", "failure"
GENERATION, SLOT = "generation", "slot"
"""The attributes of trials. A place in the search is a generation and a slot. What a trial came
to is written in one transaction with its value."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the rest of the project sees it."""

    id: int
    number: int
    state: TrialState
    params: Mapping[str, float]
    value: float | None
    attributes: Mapping[str, Any]

    @property
    def baseline(self) -> str | None:
        """The baseline's name; None for a trial of the search."""
        return self.attributes.get(BASELINE)

    @property
    def kind(self) -> str:
        """base, parent, uniform, or search."""
        return str(self.attributes.get(KIND, "search"))

    @property
    def tasks(self) -> dict[str, float]:
        """Each task's mean score."""
        return dict(self.attributes.get(TASKS, {}))

    @property
    def error(self) -> float | None:
        """The standard error of the value over questions; None where it cannot be told."""
        error = self.attributes.get(RESULT, {}).get("error")
        return None if error is None else float(error)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the trial's time went."""
        return dict(self.attributes.get(RESULT, {}).get("seconds", {}))

    @property
    def under_way(self) -> bool:
        """Running or complete: nobody else begins the same."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE)

    @property
    def complete(self) -> bool:
        return self.state == TrialState.COMPLETE


class Trials:
    """The trials of one study."""

    def __init__(self, database: Database, study: optuna.Study) -> None:
        self.database, self.study = database, study
        self._known: dict[int, tuple[FrozenTrial, TrialRecord]] = {}

    def frozen(self) -> list[FrozenTrial]:
        """Optuna's own records, not to be changed."""
        return self.database.patience(lambda: self.study.get_trials(deepcopy=False))

    def all(self) -> list[TrialRecord]:
        """Every trial, in the order of creation."""
        return [self._record(trial) for trial in self.frozen()]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        """Optuna gives a finished trial as the same object each time."""
        known = self._known.get(trial._trial_id)
        if known is None or known[0] is not trial:
            known = self._known[trial._trial_id] = (trial, record(trial))
        return known[1]


def record(trial: FrozenTrial) -> TrialRecord:
    return TrialRecord(
        trial._trial_id,
        trial.number,
        trial.state,
        trial.params,
        trial.value if trial.state == TrialState.COMPLETE else None,
        trial.user_attrs,
    )


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest value; None without any.

    Of equals the one that is first in the search, after any baseline: trial numbers depend on
    which worker was faster.
    """
    complete = sorted((r for r in records if r.complete and r.value is not None), key=_order)
    return max(complete, key=lambda r: r.value or 0.0, default=None)


def _order(record: TrialRecord) -> tuple[bool, int, int, str, int]:
    generation, slot = (int(record.attributes.get(name, 0)) for name in (GENERATION, SLOT))
    return record.kind == "search", generation, slot, record.baseline or "", record.number


def best_search(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best trial of the search."""
    return best([r for r in records if r.kind == "search"])


def best_merge(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The merge with the highest value: of the search, or a uniform one that beats it."""
    return best([r for r in records if r.kind in ("search", "uniform")])
