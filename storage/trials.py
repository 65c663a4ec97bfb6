"""What is saved with a trial and read back. Everything about it is written before it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

_BASELINE, _KIND, _TASKS, _RESULT, _FAILURE = "baseline", "kind", "tasks", "result", "failure"


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
        return self.attributes.get(_BASELINE)

    @property
    def kind(self) -> str:
        """base, parent, uniform, or search."""
        return str(self.attributes.get(_KIND, "search"))

    @property
    def tasks(self) -> dict[str, float]:
        """Each task's mean score."""
        return dict(self.attributes.get(_TASKS, {}))

    @property
    def error(self) -> float | None:
        """The standard error of the value over questions; None where it cannot be told."""
        error = self.attributes.get(_RESULT, {}).get("error")
        return None if error is None else float(error)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the trial's time went."""
        return dict(self.attributes.get(_RESULT, {}).get("seconds", {}))

    @property
    def complete(self) -> bool:
        return self.state == TrialState.COMPLETE


class Trials:
    """The trials of one study."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._storage = study._storage

    def frozen(self) -> list[FrozenTrial]:
        """Optuna's own records, not to be changed."""
        return self.study.get_trials(deepcopy=False)

    def all(self) -> list[TrialRecord]:
        """Every trial, in the order of creation."""
        return [record(trial) for trial in self.frozen()]

    def start(
        self,
        params: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        attributes: Mapping[str, Any],
    ) -> int:
        """Create a running trial with all its parameters in one transaction; gives its id."""
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={name: FloatDistribution(*bounds[name]) for name in params},
            user_attrs=dict(attributes),
        )
        return self._storage.create_new_trial(self.study._study_id, template)

    def start_baseline(
        self,
        params: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        name: str,
        kind: str,
    ) -> int:
        return self.start(params, bounds, {_BASELINE: name, _KIND: kind})

    def finish(
        self, trial_id: int, value: float, tasks: Mapping[str, float], result: Mapping[str, Any]
    ) -> None:
        """Store what a trial came to, then its value and state."""
        self._storage.set_trial_user_attr(trial_id, _TASKS, dict(tasks))
        self._storage.set_trial_user_attr(trial_id, _RESULT, dict(result))
        self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])

    def fail(self, trial_id: int, reason: str) -> None:
        """Mark a running trial failed; its place is free again."""
        self._storage.set_trial_user_attr(trial_id, _FAILURE, reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def fail_running(self, reason: str) -> list[int]:
        """Mark every running trial failed: only for who holds the sole run. Gives numbers."""
        left = [trial for trial in self.frozen() if trial.state == TrialState.RUNNING]
        for trial in left:
            self.fail(trial._trial_id, reason)
        return [trial.number for trial in left]


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
    """The complete trial with the highest value, the earliest of equals; None without any."""
    complete = [r for r in records if r.complete and r.value is not None]
    return max(complete, key=lambda r: (r.value or 0.0, -r.number), default=None)


def best_merge(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The merge with the highest value: of the search, or a uniform one that beats it."""
    return best([r for r in records if r.kind in ("search", "uniform")])
