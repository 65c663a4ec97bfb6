"""Replay a search for a path from the stored trials: CatCMA with margin in place of CMA-ES."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from study.search.space import Space, choices, ranges, start_value
from study.search.state import Evaluations, Slot, seed_of

from .optimizer import MixedOptimizer, Point


class PathReplay:
    """CatCMA with margin as a function of finished trials; implements
    `study.search.sampler.Proposals`.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        population: int,
        sigma: float,
        probabilities: Mapping[str, Sequence[float]],
    ) -> None:
        """`sigma` is the first step size of numbers, as a share of their ranges. `probabilities`
        are those of each choice's labels in the first generation."""
        self._space, self._ranges, self._choices = space, ranges(space), choices(space)
        self._seed, self.population, self._sigma = seed, population, sigma
        self._start = np.array([r.share(start_value(r)) for r in self._ranges.values()])
        self._first = [np.array(probabilities[name]) for name in self._choices]
        self._rewind()

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        """Return the parameters for a slot; `finished` holds at least all earlier generations."""
        self._advance(slot.generation, finished)
        return self._params(self._optimizer.ask(seed_of(self._seed, slot)))

    def mean(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the most likely choices of a generation, and the mean of its numbers."""
        self._advance(generation, finished)
        optimizer = self._optimizer
        indices = np.array([int(np.argmax(p)) for p in optimizer.probabilities])
        return self._params((np.clip(optimizer.mean, 0.0, 1.0), indices))

    def distribution(
        self, generation: int, finished: Evaluations
    ) -> tuple[NDArray[np.float64], float]:
        """Return the mean of a generation, and the step size of its numbers.

        The mean has the numbers, in shares of their ranges, and then the probability of each label
        of each choice.
        """
        self._advance(generation, finished)
        optimizer = self._optimizer
        return np.concatenate([optimizer.mean, *optimizer.probabilities]), optimizer.sigma

    def deviations(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the standard deviation of each number, and for each choice the probability of all
        labels but the most likely one."""
        self._advance(generation, finished)
        pairs = zip(self._optimizer.deviations, self._ranges.items(), strict=True)
        deviations = {name: float(share) * (r.high - r.low) for share, (name, r) in pairs}
        for name, p in zip(self._choices, self._optimizer.probabilities, strict=True):
            deviations[name] = float(1.0 - p.max())
        return {name: deviations[name] for name in self._space}

    def _advance(self, generation: int, finished: Evaluations) -> None:
        if generation < self._optimizer.generation:
            self._rewind()
        while (current := self._optimizer.generation) < generation:
            evaluations = [finished[Slot(current, number)] for number in range(self.population)]
            self._optimizer.tell([(self._point(e.params), -e.objective) for e in evaluations])

    def _rewind(self) -> None:
        self._optimizer = MixedOptimizer(self._start, self._sigma, self._first, self.population)

    def _params(self, point: Point) -> dict[str, float]:
        shares, indices = point
        pairs = zip(shares, self._ranges.items(), strict=True)
        params = {name: r.at(float(share)) for share, (name, r) in pairs}
        params |= {name: float(i) for i, name in zip(indices, self._choices, strict=True)}
        return {name: params[name] for name in self._space}

    def _point(self, params: Mapping[str, float]) -> Point:
        shares = [r.share(params[name]) for name, r in self._ranges.items()]
        return np.array(shares), np.array([int(params[name]) for name in self._choices])
