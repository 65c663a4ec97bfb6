"""The sampler: CMA-ES replayed from the stored trials.

The trial in slot k of generation g is a function of (seed, g, k) and of the scores of earlier
generations. Nothing but trials is stored, so an interrupted study proposes what an uninterrupted
one does, and a failed trial is proposed again in its slot.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from storage.trials import record
from study.config.genome import Range

from .cma import Optimizer
from .space import Choice, Space
from .state import Evaluations, SearchState, Slot, seed_of


class Proposals(Protocol):
    """What a search proposes, as a function of what a study has stored.

    `finished` holds at least the slots of all earlier generations.
    """

    population: int
    """Slots of a generation."""

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        """Return the parameters for a slot."""
        ...

    def mean(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the point around which a generation lies, within the bounds."""
        ...

    def distribution(
        self, generation: int, finished: Evaluations
    ) -> tuple[NDArray[np.float64], float]:
        """Return that point and the step size, in shares of each range."""
        ...

    def deviations(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the standard deviation of a generation along each parameter."""
        ...


class Replay:
    """CMA-ES as a function of finished trials. Coordinates are shares of each range, 0 to 1."""

    def __init__(
        self,
        space: Mapping[str, Range],
        seed: int,
        population: int,
        sigma: float,
        start: Sequence[float],
        cov: NDArray[np.float64] | None = None,
        symmetric: bool = True,
    ) -> None:
        """`sigma` is the first step size, `start` the first mean, and `cov` the first covariance
        (the identity by default). For `symmetric` see `study.search.cma.Optimizer`."""
        self._space, self._seed, self.population, self._sigma = space, seed, population, sigma
        self._start, self._cov = np.array(start, dtype=np.float64), cov
        self._symmetric = symmetric
        self._rewind()

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        """Return the parameters for a slot; `finished` holds at least all earlier generations."""
        self._advance(slot.generation, finished)
        return self._scaled(self._optimizer.ask(seed_of(self._seed, slot)))

    def mean(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the mean that a generation is drawn around, within the bounds."""
        self._advance(generation, finished)
        return self._scaled(np.clip(self._optimizer.mean, 0.0, 1.0))

    def distribution(
        self, generation: int, finished: Evaluations
    ) -> tuple[NDArray[np.float64], float]:
        """Return the mean and the step size that a generation is drawn with, in shares of each
        range."""
        self._advance(generation, finished)
        return self._optimizer.mean, self._optimizer.sigma

    def deviations(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the standard deviation of that distribution along each parameter."""
        self._advance(generation, finished)
        pairs = zip(self._optimizer.deviations, self._space.items(), strict=True)
        return {name: float(share) * (r.high - r.low) for share, (name, r) in pairs}

    def _advance(self, generation: int, finished: Evaluations) -> None:
        if generation < self._optimizer.generation:
            self._rewind()
        while self._optimizer.generation < generation:
            self._tell(self._optimizer.generation, finished)

    def _rewind(self) -> None:
        if self._space:  # a merge method may have no parameters: then nothing is ever proposed
            self._optimizer = Optimizer(
                self._start, self._sigma, self.population, self._cov, self._symmetric
            )

    def _tell(self, generation: int, finished: Evaluations) -> None:
        solutions = []
        for number in range(self.population):
            evaluation = finished[Slot(generation, number)]
            solutions.append((self._shares(evaluation.params), -evaluation.objective))
        self._optimizer.tell(solutions)

    def _scaled(self, shares: NDArray[np.float64]) -> dict[str, float]:
        pairs = zip(shares, self._space.items(), strict=True)
        return {name: range_.at(float(share)) for share, (name, range_) in pairs}

    def _shares(self, params: Mapping[str, float]) -> NDArray[np.float64]:
        return np.array([r.share(params[name]) for name, r in self._space.items()])


class ReplaySampler(BaseSampler):
    """`Replay` as an Optuna sampler, for `study.optimize` as well as for this project's loop."""

    def __init__(self, replay: Proposals, space: Space) -> None:
        self.replay = replay
        self._space = distributions(space)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Take the next slot.

        Raises RuntimeError if all remaining slots of a generation are running: CMA-ES has nothing
        to propose before their scores are known.
        """
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        state = SearchState.of([record(t) for t in trials], self.replay.population)
        free = state.free_slots()
        if not free:
            raise RuntimeError("all slots of this generation are running; wait for their scores")
        slot = free[0]
        for key, value in slot.attributes.items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
        params = self.replay.propose(slot, state.finished)
        return {name: d.to_external_repr(params[name]) for name, d in self._space.items()}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise ValueError(f"{param_name} is not a parameter of this study's space")


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each parameter."""
    return {
        name: CategoricalDistribution(r.labels)
        if isinstance(r, Choice)
        else FloatDistribution(r.low, r.high)
        for name, r in space.items()
    }


def default_population(parameters: int, trials: int) -> int:
    """Return 4 + floor(3 ln n) (Hansen 2016, equation 48), or twice that beyond 350 trials."""
    population = 4 + math.floor(3 * math.log(max(parameters, 1)))
    return population if trials <= 350 else 2 * population


def start_of(space: Mapping[str, Range], seed: int, random: bool) -> list[float]:
    """Return the first mean in shares of the ranges: each range's start or middle, or random."""
    if random:
        generator = np.random.default_rng(np.random.SeedSequence([seed, len(space)]))
        return [float(u) for u in generator.random(len(space))]
    return [0.5 if r.start is None else r.share(r.start) for r in space.values()]
