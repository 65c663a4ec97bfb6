"""The ways to search that comparison.py compares, and the engine that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cmaes import CMA

from benchmarks.search_parts import RandomSetup, TpeSetup
from objectives.engines.engine import Answer, Engine, Prompt
from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Example, Loss
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from study.config.genome import Range
from study.search.rules import SearchRules
from study.search.sampler import Replay, ReplaySampler, start_of
from study.search.space import ranges
from study.setup.engine import EngineChoice
from study.setup.setup import Setup

FINE = {"layer_granularity": 1, "filters": ("self_attn", "mlp")}
PARENT = "selling"
"""The best parent of the families of real_family.py."""
WIDTH = 10.0
"""The width of ranges that a search never leaves, for mergekit-evolve's search without bounds."""


@dataclass(frozen=True)
class Way:
    """A way to search: changes to a config, and the setup that runs it."""

    genome: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    """Changes of top-level keys."""
    setup: type[Setup] = Setup
    grid: bool = False
    """Score the uniform merges alone."""
    then: str = ""
    """The way that goes on from this one's end, each with half of the questions."""


@dataclass(frozen=True)
class EvolveRules(SearchRules):
    """mergekit-evolve's start and step size, without bounds."""

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        first = {"weight": 1 / len(self.genome.models), "density": 1.0}
        start = [
            (first[name.split("/")[-1]] - range_.low) / WIDTH for name, range_ in space.items()
        ]
        return ReplaySampler(Replay(space, seed, population, 1 / 6 / WIDTH, start), space)


@dataclass(frozen=True)
class EvolveSetup(Setup):
    def __post_init__(self) -> None:
        wide = Range(low=-WIDTH / 2, high=WIDTH / 2)
        self.genome.space = dict.fromkeys(self.genome.space, wide)

    @property
    def rules(self) -> SearchRules:
        return EvolveRules(self.config, self.genome, self.search)


@dataclass(frozen=True)
class ContinuedRules(SearchRules):
    """CMA-ES around a point."""

    start: Mapping[str, float] = field(default_factory=dict)

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, seed = self.genome.space, self.config.study.seed
        shares = [r.share(self.start[name]) for name, r in space.items()]
        return ReplaySampler(Replay(space, seed, population, 1 / 20, shares), space)


@dataclass(frozen=True)
class ContinuedSetup(Setup):
    start: Mapping[str, float] = field(default_factory=dict)

    @property
    def rules(self) -> SearchRules:
        return ContinuedRules(self.config, self.genome, self.search, self.start)


class AdaptingReplay(Replay):
    """CMA-ES that adapts its learning rate to the noise (Nomura et al. 2023, LRA-CMA-ES)."""

    def _rewind(self) -> None:
        super()._rewind()
        bounds = np.array([[0.0, 1.0]] * len(self._start))
        self._optimizer._cma = CMA(
            self._start.copy(), self._sigma, bounds, population_size=self.population, lr_adapt=True
        )


@dataclass(frozen=True)
class AdaptingRules(SearchRules):
    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, study = ranges(self.genome.space), self.config.study
        start = start_of(space, study.seed, False)
        return ReplaySampler(
            AdaptingReplay(space, study.seed, population, study.sigma, start), space
        )


class AdaptingSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        return AdaptingRules(self.config, self.genome, self.search)


@dataclass(frozen=True)
class ParentRules(SearchRules):
    """CMA-ES that begins at the parent named in PARENT."""

    def sampler(self, population: int, *_: Any) -> ReplaySampler:
        space, study = ranges(self.genome.space), self.config.study
        [params] = [b.params for b in self.genome.baselines() if b.name == PARENT]
        start = [r.share(params[name]) for name, r in space.items()]
        return ReplaySampler(Replay(space, study.seed, population, study.sigma, start), space)


class ParentSetup(Setup):
    @property
    def rules(self) -> SearchRules:
        return ParentRules(self.config, self.genome, self.search)


WAYS: dict[str, Way] = {
    "task arithmetic grid": Way(genome={"merge_method": "task_arithmetic"}, grid=True),
    "random search": Way(search={"soft": 0.0}, setup=RandomSetup),
    "TPE": Way(setup=TpeSetup),
    "mergekit-evolve": Way(search={"soft": 0.0, "questions": 1.0}, setup=EvolveSetup),
    "CMA-ES": Way(),
    "CMA-ES by score": Way(search={"soft": 0.0}),
    "CMA-ES, a tenth": Way(search={"questions": 0.1}),
    "CMA-ES, half": Way(search={"questions": 0.5}),
    "CMA-ES, all": Way(search={"questions": 1.0}),
    "CMA-ES, sigma 1/12": Way(study={"sigma": 1 / 12}),
    "CMA-ES, sigma 1/3": Way(study={"sigma": 1 / 3}),
    "CMA-ES, population 7": Way(study={"population": 7}),
    "CMA-ES, population 28": Way(study={"population": 28}),
    "CMA-ES, learning rate": Way(setup=AdaptingSetup),
    "CMA-ES, random start": Way(top={"random_init": True}),
    "CMA-ES, parent start": Way(setup=ParentSetup),
    "gradient": Way(search={"algorithm": "gradient"}),
    "gradient, options": Way(search={"algorithm": "gradient", "loss": "options"}),
    "gradient, then CMA-ES": Way(search={"algorithm": "gradient"}, then="CMA-ES"),
    "fine gradient": Way(FINE, {"algorithm": "gradient"}),
    "fine gradient, options": Way(FINE, {"algorithm": "gradient", "loss": "options"}),
    "gradient, q 0": Way(search={"algorithm": "gradient", "loss_q": 0.0}),
    "gradient, q 1": Way(search={"algorithm": "gradient", "loss_q": 1.0}),
    "fine gradient, q 0": Way(FINE, {"algorithm": "gradient", "loss_q": 0.0}),
    "fine gradient, q 1": Way(FINE, {"algorithm": "gradient", "loss_q": 1.0}),
}


class RememberingEngine:
    """An engine whose answers to whole sets of prompts are kept by merge: the parents and uniform
    merges are the same in every study of a seed."""

    def __init__(self, engine: GradientEngine) -> None:
        self._engine = engine
        self._loaded: MergeRecipe | None = None
        self._wanted: MergeRecipe | None = None
        self._answers: dict[tuple[str, int], list[Answer]] = {}

    def load(self, recipe: MergeRecipe) -> None:
        self._wanted = recipe

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        key = repr(self._wanted), hash(tuple(prompts))
        if key not in self._answers:
            self._answers[key] = self._current().answer(prompts)
        return self._answers[key]

    def step(self, recipe: MergeRecipe, *rest: Any) -> Any:
        self._wanted = self._loaded = recipe
        return self._engine.step(recipe, *rest)

    def losses(self, examples: Sequence[Example], loss: Loss) -> list[float]:
        return self._current().losses(examples, loss)

    def close(self) -> None:
        """Leave the engine for the next study."""

    def _current(self) -> GradientEngine:
        assert self._wanted is not None
        if self._loaded != self._wanted:
            self._engine.load(self._wanted)
            self._loaded = self._wanted
        return self._engine


@dataclass(frozen=True)
class SharedChoice(EngineChoice):
    """The choice of an engine that runs already."""

    engine: Engine | None = None

    def start(self, sources: Sources, longest: int) -> Engine:
        assert self.engine is not None
        return self.engine
