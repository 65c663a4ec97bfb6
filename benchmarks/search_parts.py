"""Parts of a search that search.py measures and the product has not: they did not pay.

docs/search.md says why. They stand here so that their figures can be had again.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from cmaes import CMA
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from objectives.engines.engine import Engine
from objectives.sampling import Floats, Sample, estimate
from objectives.scoring import QuestionSet, Scores, TaskScores
from storage.trials import TrialRecord
from study.search.rules import SearchRules
from study.search.sampler import Replay, ReplaySampler, start_of
from study.search.state import Evaluations, SearchState, Slot
from study.setup.setup import Setup


class RandomReplay(Replay):
    """Proposes points of the space at random, each a function of its place."""

    def propose(self, place: Slot, finished: Mapping[Any, Any]) -> dict[str, float]:
        generator = np.random.default_rng([self._seed, *place])
        return self._scaled(generator.random(len(self._space)))


class RandomRules(SearchRules):
    replay: type[Replay] = RandomReplay

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        start = start_of(space, seed, False)
        return ReplaySampler(self.replay(space, seed, population, 1 / 6, start), space)


class RandomSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        return RandomRules(self.config, self.genome, self.search)


class TpeReplay(Replay):
    """Proposes what Optuna's TPE does after all trials of earlier generations."""

    def propose(self, slot: Slot, finished: Evaluations) -> dict[str, float]:
        sampler = TPESampler(
            seed=int(np.random.SeedSequence([self._seed, *slot]).generate_state(1)[0])
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space: dict[str, BaseDistribution] = {
            name: FloatDistribution(r.low, r.high) for name, r in self._space.items()
        }
        for earlier, evaluation in sorted(finished.items()):
            if earlier.generation < slot.generation:
                params, value = dict(evaluation.params), evaluation.objective
                trial = create_trial(params=params, distributions=space, value=value)
                study.add_trial(trial)
        return study.ask(space).params


class TpeRules(RandomRules):
    replay = TpeReplay


class TpeSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        return TpeRules(self.config, self.genome, self.search)


class CoarseReplay(Replay):
    """CMA-ES over few blocks, which are split at set generations: the mean is carried over, and
    the covariance, with what the new directions had as their block."""

    stages: Sequence[tuple[int, int]] = ()
    """From which generation on there are so many blocks."""

    def _rewind(self) -> None:
        self._stage = 0
        self._merged = self._expansion(self.stages[0][1])
        count = self._merged.shape[1]
        start = np.linalg.pinv(self._merged) @ self._start
        self._cma = CMA(
            start, self._sigma, np.tile([0.0, 1.0], (count, 1)), population_size=self.population
        )
        self._told = 0

    def _expansion(self, blocks: int) -> Any:
        """[parameters, coarse parameters], ones where a coarse one stands for a parameter."""
        names = [name.split("/") for name in self._space]
        depth = {block: i for i, block in enumerate(dict.fromkeys(n[1] for n in names))}
        keys = [(n[0], n[2], depth[n[1]] * blocks // len(depth)) for n in names]
        places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        made = np.zeros((len(keys), len(places)))
        made[range(len(keys)), [places[key] for key in keys]] = 1
        return made

    def _advance(self, generation: int, finished: Mapping[Any, Any]) -> None:
        if generation < self._told:
            self._rewind()
        while self._told < generation:
            self._tell(self._told, finished)
            self._told += 1
            stage = sum(self._told >= begin for begin, _ in self.stages) - 1
            if stage > self._stage:
                self._split(stage)

    def _split(self, stage: int) -> None:
        finer = self._expansion(self.stages[stage][1])
        up = np.linalg.pinv(finer) @ self._merged
        old = self._cma
        cov = up @ old._C @ up.T
        inside = np.eye(len(up)) - up @ np.linalg.pinv(up)
        cov += inside * float(np.mean(np.diag(old._C)))
        bounds = np.tile([0.0, 1.0], (len(up), 1))
        self._cma = CMA(
            np.clip(up @ old.mean, 0, 1),
            float(old._sigma),
            bounds,
            cov=cov,
            population_size=self.population,
        )
        self._stage, self._merged = stage, finer

    def _scaled(self, shares: Any) -> dict[str, float]:
        return super()._scaled(self._merged @ shares)

    def _shares(self, params: Mapping[str, float]) -> Any:
        return np.linalg.pinv(self._merged) @ super()._shares(params)


@dataclass(frozen=True)
class CoarseRules(SearchRules):
    stages: Sequence[tuple[int, int]] = ()

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        kind = type("Staged", (CoarseReplay,), {"stages": self.stages})
        made = kind(space, seed, population, 1 / 6, start_of(space, seed, False))
        return ReplaySampler(made, space)


@dataclass(frozen=True)
class CoarseSetup(Setup):
    stages: Sequence[tuple[int, int]] = ()

    @property
    def rules(self) -> SearchRules:
        return CoarseRules(self.config, self.genome, self.search, self.stages)


@dataclass(frozen=True)
class RacedTask:
    """One task of a trial, whose sample is asked in blocks."""

    weight: float
    ranked_Q: Floats
    """Of questions that were not asked, anything."""
    expected_Q: Floats
    sample: Sample
    order_S: NDArray[np.int64]
    """In which the sample is asked."""

    def first(self, share: float) -> Sample:
        """The beginning of the sample, with the chances of being in it."""
        count = round(len(self.order_S) * share)
        kept, chance = np.sort(self.order_S[:count]), count / len(self.order_S)
        asked_S, probabilities_S = (
            self.sample.asked_S[kept],
            self.sample.probabilities_S[kept] * chance,
        )
        return replace(self.sample, asked_S=asked_S, probabilities_S=probabilities_S)


def expected(sample: Sample, soft: float) -> Floats:
    """What is expected of every question, in what trials are ranked by."""
    return soft * sample.expected_soft_Q + (1 - soft) * sample.expected_Q


def race(
    tasks: Sequence[RacedTask], blocks: int, z: float, reference: float
) -> tuple[float, list[Sample]]:
    """A trial's estimate, and what it was asked of each task: it is left after a block, of every
    task in proportion, at which the estimate is `z` errors below `reference`."""
    for block in range(1, blocks + 1):
        parts = [task.first(block / blocks) for task in tasks]
        value = variance = 0.0
        for task, part in zip(tasks, parts, strict=True):
            found = estimate(task.ranked_Q[part.asked_S], task.expected_Q, part)
            value += task.weight * found.mean
            variance += task.weight**2 * found.sampling_variance
        if value + z * math.sqrt(variance) < reference:
            break
    return value, parts


class RacedQuestionSet(QuestionSet):
    """Takes a trial's sample in blocks, and leaves off at half an error below the mean of the
    generation before: the estimate so far is the trial's. (All are asked at once here, and those
    after it forgotten.)"""

    blocks, soft = 1, 0.0
    records: Callable[[], Sequence[TrialRecord]]

    def evaluate(self, engine: Engine, samples: Mapping[str, Sample] | None = None) -> Scores:
        scores = super().evaluate(engine, samples)
        before = self._before() if samples else []
        if not before:
            return scores
        tasks = [self._raced(task) for task in scores.tasks.values()]
        _, parts = race(tasks, self.blocks, 0.5, statistics.fmean(before))
        named = zip(scores.tasks.items(), parts, strict=True)
        return Scores({name: replace(task, sample=part) for (name, task), part in named})

    def _before(self) -> list[float]:
        finished = SearchState.of([r for r in self.records() if r.complete]).finished
        now = max((place.generation for place in finished), default=0)
        size = sum(place.generation == 0 for place in finished)
        if sum(place.generation == now for place in finished) == size:
            now += 1
        return [value for place, (_, value) in finished.items() if place.generation == now - 1]

    def _raced(self, task: TaskScores) -> RacedTask:
        of, count = task.sample, len(task.sample.asked_S)
        ranked_Q = self.soft * task.soft_Q + (1 - self.soft) * task.scores_Q
        expected_Q = expected(of, self.soft)
        order_S = np.random.default_rng(count).permutation(count)
        return RacedTask(task.weight, ranked_Q.astype(np.float64), expected_Q, of, order_S)
