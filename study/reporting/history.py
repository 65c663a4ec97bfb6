"""How a search went, from its trials: scores, convergence, importance and time, as plain data."""

import statistics
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from storage.trials import GENERATION, TrialRecord
from study.search.sampler import Replay
from study.search.state import SearchState, slot_of

ENOUGH_TRIALS = 100
"""Search trials below which an importance would be noise: PED-ANOVA looks at the best tenth."""
_PARTS = ("ask", "merge", "score")


def scores(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Every search trial in the order of its place, and the scores of the baselines."""
    search = _searched(records)
    kinds = ("base", "parent", "uniform")
    return {
        "values": [r.value for r in search],
        "generations": [r.attributes[GENERATION] for r in search],
        "tasks": {
            task: [r.tasks.get(task) for r in search]
            for task in dict.fromkeys(name for r in search for name in r.tasks)
        },
        "baselines": {
            f"{r.kind} {r.baseline}" if r.kind == "parent" else str(r.baseline): r.value
            for r in records
            if r.complete and r.kind in kinds
        },
    }


def convergence(state: SearchState, replay: Replay) -> list[dict[str, float]]:
    """For each generation CMA-ES's step size, and how far its mean is from the start and from the
    generation before: root mean squares over the parameters, in shares of their ranges."""
    found: list[dict[str, float]] = []
    start: NDArray[np.float64] | None = None
    before = start
    for generation in range(state.generation + 1):
        mean, sigma = replay.distribution(generation, state.finished)
        start = mean if start is None else start
        before = mean if before is None else before
        found.append(
            {
                "generation": generation,
                "sigma": sigma,
                "from_start": _distance(mean, start),
                "step": _distance(mean, before),
            }
        )
        before = mean
    return found


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Each parameter's share in what sets the best search trials apart (PED-ANOVA, Watanabe et
    al. 2023), largest first; None where there are too few trials to tell."""
    search = [t for t in trials if GENERATION in t.user_attrs and t.value is not None]
    if len(search) < ENOUGH_TRIALS:
        return None
    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.add_trials(search)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def seconds(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Where time went: in all, by kind of trial, and the median search trial by generation."""
    complete = [r for r in records if r.complete]
    kinds: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in complete:
        name = {"search": "search", "candidate": "candidates"}.get(record.kind, "baselines")
        kinds[name].append(record)
    generations: dict[int, list[TrialRecord]] = defaultdict(list)
    for record in _searched(records):
        generations[record.attributes[GENERATION]].append(record)
    return {
        "trials": {kind: len(of_kind) for kind, of_kind in kinds.items()},
        "totals": {kind: _summed(of_kind) for kind, of_kind in kinds.items()},
        "medians": {
            part: [
                statistics.median(r.seconds.get(part, 0.0) for r in of_generation)
                for of_generation in generations.values()
            ]
            for part in _PARTS
        },
    }


def _searched(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the finished search trials in the order of the search."""
    slots = {r.id: slot for r in records if r.complete and (slot := slot_of(r)) is not None}
    return sorted((r for r in records if r.id in slots), key=lambda r: slots[r.id])


def _summed(records: Sequence[TrialRecord]) -> Mapping[str, float]:
    return {part: round(sum(r.seconds.get(part, 0.0) for r in records), 2) for part in _PARTS}


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
