"""Warm start: a search that starts from the best trials of an earlier study.

The best tenth of the earlier study's search trials, or the last quarter of the steps of a search by
gradient, is stored with the new study, which therefore does not depend on it any more. The first
mean, step size and covariance are computed from them (Nomura et al. 2021, "Warm starting CMA-ES
for hyperparameter optimization"). A search by gradient starts at the mean.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from cmaes import get_warm_start_mgd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from storage.studies import START
from storage.trials import RESULT, TrialRecord, Trials
from study.config.errors import ConfigError
from study.config.genome import Range

from .ascent.jobs import LAST_SHARE
from .state import LOSS, SearchState

_BEST_SHARE = 0.1
_DIGITS = 6
"""Decimal digits of a stored coordinate, which is a share of its range."""

Distribution = tuple[NDArray[np.float64], float, NDArray[np.float64]]
"""Mean, step size and covariance (of determinant 1), in shares of each range."""


def store_start(study: optuna.Study, earlier: Trials, space: Mapping[str, Range]) -> None:
    """Store the warm start of a new study. Raises what `points_to_start_from` raises."""
    name, records = earlier.study.study_name, earlier.all()
    points = points_to_start_from(name, records, space)
    shares = [[_share(params[n], r) for n, r in space.items()] for params in points]
    finished = len(SearchState.of(records).finished)
    study.set_user_attr(START, {"from": name, "trials": finished, "top": shares})


def points_to_start_from(
    name: str, records: Sequence[TrialRecord], space: Mapping[str, Range]
) -> list[Mapping[str, float]]:
    """Return the points of an earlier study, `name`, from which the start of a new one is computed.

    Raises ConfigError if the earlier study searched other parameters, or has too few finished
    trials.
    """
    finished = SearchState.of(records).finished
    by_gradient = any(r.complete and LOSS in r.attributes.get(RESULT, {}) for r in records)
    share = LAST_SHARE if by_gradient else _BEST_SHARE
    count = math.floor(share * len(finished))
    if count < 1:
        raise ConfigError(
            f"study.start_from: {name} has {len(finished)} finished search trials; "
            f"{math.ceil(1 / share)} are needed"
        )
    if by_gradient:  # the scores of steps are of different questions
        ranked = sorted(finished.items(), reverse=True)
    else:
        ranked = sorted(finished.items(), key=lambda item: (-item[1].objective, item[0]))
    top = [evaluation.params for _, evaluation in ranked[:count]]
    if missing := [parameter for parameter in space if parameter not in top[0]]:
        raise ConfigError(
            f"study.start_from: {name} did not search {missing[0]}; this study must have the same "
            "models, blocks and method"
        )
    return top


def start_text(start: Mapping[str, Any]) -> str:
    """Return a short text that identifies a warm start."""
    text = json.dumps(start["top"])
    source = f"{start['from']} after {start['trials']} trials"
    return f"{source}, {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def distribution(start: Mapping[str, Any]) -> Distribution:
    """Return the distribution of the first generation."""
    points = [(np.array(shares, dtype=np.float64), 0.0) for shares in start["top"]]
    with threadpool_limits(1):
        mean, sigma, cov = get_warm_start_mgd(points, gamma=1.0)
    return mean, float(sigma), cov


def _share(value: float, range_: Range) -> float:
    return round(min(max(range_.share(value), 0.0), 1.0), _DIGITS)
