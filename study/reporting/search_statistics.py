"""The course of a search: convergence, parameter importance and time."""

import statistics
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from storage.trials import GENERATION, TrialRecord
from study.search.history import search_trials
from study.search.sampler import Proposals
from study.search.state import SearchState

ENOUGH_TRIALS = 100
"""Search trials below which an importance would be noise: PED-ANOVA looks at the best tenth."""
_PARTS, _STEP = ("ask", "merge", "score"), "step"


@dataclass(frozen=True)
class Distribution:
    """CMA-ES's distribution at the start of a generation.

    Distances are root mean squares over the parameters, in shares of their ranges.
    """

    generation: int
    sigma: float
    """The step size."""
    from_start: float
    """The distance of the mean from the first mean."""
    step: float
    """The distance of the mean from that of the previous generation."""


@dataclass(frozen=True)
class TimeSpent:
    """The seconds that trials took; `ask`, `merge` and `score` are the parts of a trial."""

    trials: Mapping[str, int]
    """The number of complete trials by kind: baselines, search, candidates."""
    totals: Mapping[str, Mapping[str, float]]
    """Seconds by kind and part."""
    medians: Mapping[str, Sequence[float]]
    """Seconds of a search trial by part: the median of each generation. Searches by gradient have
    the part `step`."""


def convergence(state: SearchState, replay: Proposals) -> list[Distribution]:
    """Return the distribution that each generation is sampled from."""
    distributions: list[Distribution] = []
    first: NDArray[np.float64] | None = None
    previous = first
    for generation in range(state.generation + 1):
        mean, sigma = replay.distribution(generation, state.finished)
        first = mean if first is None else first
        previous = mean if previous is None else previous
        distributions.append(
            Distribution(generation, sigma, _distance(mean, first), _distance(mean, previous))
        )
        previous = mean
    return distributions


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Return the importance of each parameter, the largest first: its share in what distinguishes
    the best search trials (PED-ANOVA, Watanabe et al. 2023).

    None if there are fewer than ENOUGH_TRIALS search trials.
    """
    search = [t for t in trials if GENERATION in t.user_attrs and t.value is not None]
    if len(search) < ENOUGH_TRIALS:
        return None
    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.add_trials(search)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def time_spent(records: Sequence[TrialRecord]) -> TimeSpent:
    """Return the seconds that the complete trials took."""
    kinds: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        if record.complete:
            kind = {"search": "search", "candidate": "candidates"}.get(record.kind, "baselines")
            kinds[kind].append(record)
    generations: dict[int, list[TrialRecord]] = defaultdict(list)
    for record in search_trials(records):
        generations[record.attributes[GENERATION]].append(record)
    parts = [*_PARTS, *([_STEP] if any(_STEP in r.seconds for r in records) else [])]
    return TimeSpent(
        {kind: len(of_kind) for kind, of_kind in kinds.items()},
        {kind: _totals(of_kind, parts) for kind, of_kind in kinds.items()},
        {
            part: [
                statistics.median(r.seconds.get(part, 0.0) for r in of_generation)
                for of_generation in generations.values()
            ]
            for part in parts
        },
    )


def _totals(records: Sequence[TrialRecord], parts: Sequence[str]) -> dict[str, float]:
    return {part: round(sum(r.seconds.get(part, 0.0) for r in records), 2) for part in parts}


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
