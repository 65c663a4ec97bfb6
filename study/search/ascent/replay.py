"""Replay a search by gradient from the gradients that a study has stored.

A study runs one or more ascents that differ in their starts and batches. The trial in slot k of
generation g is step g of ascent k, a function of the start and of the gradients of earlier steps.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from storage.gradients import GradientStore
from study.config.genome import Range
from study.search.state import Evaluations, Slot

from .ascent import Ascent, Hyperparameters

_SPREAD = 0.15
"""The maximum distance of the other starts from the first, as a fraction of each range."""


class AscentReplay:
    """The ascents as a function of stored gradients; implements `study.search.sampler.Proposals`.

    The argument `finished` is not used, because the gradients are read from the database.
    """

    def __init__(
        self,
        space: Mapping[str, Range],
        seed: int,
        ascents: int,
        rule: Hyperparameters,
        start: Sequence[float],
        gradients: GradientStore | None,
    ) -> None:
        """Begin the ascents. `start` is the first one's start, scaled to 0 to 1.

        Without `gradients` only the starts can be proposed.
        """
        self.population, self.rule = ascents, rule
        self._bounds = {name: (r.low, r.high) for name, r in space.items()}
        self._names, self._gradients = sorted(space), gradients
        self._starts = [_start_point(start, seed, k) for k in range(ascents)]
        self._ascents = [self._new_ascent(k) for k in range(ascents)]

    @property
    def steps(self) -> int:
        """The planned number of steps of each ascent."""
        return self.rule.steps

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        """Return the parameters at which the gradient of a step is computed."""
        return self._at(slot).params

    def mean(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return the parameters of the first ascent after `generation` steps."""
        return self._at(Slot(generation, 0)).params

    def distribution(
        self, generation: int, finished: Evaluations
    ) -> tuple[NDArray[np.float64], float]:
        """Return the point of the first ascent, scaled to 0 to 1, and its learning rate."""
        ascent = self._at(Slot(generation, 0))
        return ascent.shares_N, self.rule.rate_of(min(generation, self.steps))

    def deviations(self, generation: int, finished: Evaluations) -> dict[str, float]:
        """Return 0 for each parameter: steps are not drawn from a distribution."""
        return dict.fromkeys(self._bounds, 0.0)

    def _at(self, slot: Slot) -> Ascent:
        if not self._bounds:
            return self._ascents[slot.number]
        if self._ascents[slot.number].step > slot.generation:
            self._ascents[slot.number] = self._new_ascent(slot.number)
        ascent = self._ascents[slot.number]
        while ascent.step < slot.generation:
            assert self._gradients is not None
            values_N = self._gradients.get(ascent.step, slot.number)
            ascent.tell(dict(zip(self._names, values_N.tolist(), strict=True)))
        return ascent

    def _new_ascent(self, number: int) -> Ascent:
        start = self._starts[number]
        pairs = zip(self._bounds.items(), start, strict=True)
        params = {name: low + share * (high - low) for (name, (low, high)), share in pairs}
        return Ascent(params, self._bounds, self.rule)


def _start_point(start: Sequence[float], seed: int, number: int) -> list[float]:
    """Return the start of an ascent: the first one's, or a random point near it."""
    if number == 0 or not start:
        return list(start)
    generator = np.random.default_rng([seed, number])
    point = np.array(start) + generator.uniform(-_SPREAD, _SPREAD, len(start))
    return [float(share) for share in np.clip(point, 0.0, 1.0)]
