"""Our Optuna sampler: CMA-ES replayed from the stored trials.

The trial in slot k of generation g is a function of (seed, g, k) and of the scores of the
generations before it. Nothing but trials is stored, so an interrupted study proposes what an
uninterrupted one does, and a trial that failed is proposed again in its place.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from storage.trials import GENERATION, SLOT, record
from study.config.genome import Range

from .state import Place, generation_of, places_of


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
    ) -> None:
        """`sigma` is the first step size, `start` the first mean and `cov` the first covariance,
        the identity where there is none."""
        self._space, self._seed, self.population, self._sigma = space, seed, population, sigma
        self._start, self._cov = np.array(start, dtype=np.float64), cov
        self._rewind()

    def propose(
        self, place: Place, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> dict[str, float]:
        """Parameters for a place, given (parameters, value) of at least all earlier generations."""
        with threadpool_limits(1):  # the last bits of an eigenvector hang on the thread count
            self._advance(place.generation, finished)
            self._cma.reseed_rng(_seed_of(self._seed, place))
            return self._scaled(self._cma.ask())

    def mean(
        self, generation: int, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> dict[str, float]:
        """The middle of the distribution that a generation is drawn from."""
        with threadpool_limits(1):
            self._advance(generation, finished)
            return self._scaled(np.clip(self._cma.mean, 0.0, 1.0))

    def distribution(
        self, generation: int, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> tuple[NDArray[np.float64], float]:
        """Mean and step size of what a generation is drawn from, in shares of each range."""
        with threadpool_limits(1):
            self._advance(generation, finished)
            return self._cma.mean.copy(), float(self._cma._sigma)

    def deviations(
        self, generation: int, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> dict[str, float]:
        """How far that distribution spreads along each parameter: its standard deviations."""
        with threadpool_limits(1):
            self._advance(generation, finished)
            shares = self._cma._sigma * np.sqrt(np.diag(self._cma._C))
        pairs = zip(shares, self._space.items(), strict=True)
        return {name: float(share) * (r.high - r.low) for share, (name, r) in pairs}

    def free_places(self, taken: Collection[Place], finished: Collection[Place]) -> list[Place]:
        """The places of the generation under way that nobody has; none while all are running."""
        generation = generation_of(finished, self.population)
        places = (Place(generation, slot) for slot in range(self.population))
        return [place for place in places if place not in taken]

    def _advance(
        self, generation: int, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> None:
        if generation < self._cma.generation:
            self._rewind()
        while self._cma.generation < generation:
            self._tell(self._cma.generation, finished)

    def _rewind(self) -> None:
        if not self._space:
            return  # a merge method without numbers: there is nothing to propose
        bounds = np.array([[0.0, 1.0]] * len(self._space))
        self._cma = CMA(
            self._start.copy(),
            self._sigma,
            bounds,
            population_size=self.population,
            cov=None if self._cov is None else self._cov.copy(),
        )

    def _tell(
        self, generation: int, finished: Mapping[Place, tuple[Mapping[str, float], float]]
    ) -> None:
        solutions = []
        for slot in range(self.population):
            params, value = finished[Place(generation, slot)]
            solutions.append((self._shares(params), -value))
        self._cma.tell(solutions)

    def _scaled(self, shares: NDArray[np.float64]) -> dict[str, float]:
        params = {}
        for share, (name, range_) in zip(shares, self._space.items(), strict=True):
            value = range_.low + float(share) * (range_.high - range_.low)
            params[name] = min(max(value, range_.low), range_.high)
        return params

    def _shares(self, params: Mapping[str, float]) -> NDArray[np.float64]:
        return np.array([(params[n] - r.low) / (r.high - r.low) for n, r in self._space.items()])


class ReplaySampler(BaseSampler):
    """`Replay` behind Optuna's interface, for `study.optimize` as well as for our own loop."""

    def __init__(self, replay: Replay, space: Mapping[str, Range]) -> None:
        self.replay = replay
        self._space = {name: FloatDistribution(r.low, r.high) for name, r in space.items()}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Takes the next place. Raises RuntimeError where others run all that is left of a
        generation: CMA-ES has nothing to propose before their scores."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        finished, taken = places_of([record(t) for t in trials])
        free = self.replay.free_places(taken, finished)
        if not free:
            raise RuntimeError("every place of this generation is running; wait for their scores")
        place = free[0]
        for key, value in ((GENERATION, place.generation), (SLOT, place.slot)):
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
        return self.replay.propose(place, finished)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise ValueError(f"{param_name} is not a parameter of this study's space")


def default_population(parameters: int, trials: int) -> int:
    """4 + floor(3 ln n) (Hansen 2016, equation 48), and twice that beyond 350 trials."""
    population = 4 + math.floor(3 * math.log(max(parameters, 1)))
    return population if trials <= 350 else 2 * population


def start_of(space: Mapping[str, Range], seed: int, random: bool) -> list[float]:
    """The first mean, as shares of the ranges: each range's start or middle, or random."""
    if random:
        generator = np.random.default_rng(np.random.SeedSequence([seed, len(space)]))
        return [float(u) for u in generator.random(len(space))]
    return [
        0.5 if r.start is None else (r.start - r.low) / (r.high - r.low) for r in space.values()
    ]


def _seed_of(seed: int, place: Place) -> int:
    """32 bits that no two places of a study share but by chance."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])
