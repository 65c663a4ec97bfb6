"""The rules of a study's search: its population, its sampler, and the questions of each trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from objectives.sampling import Sample
from objectives.scoring import QuestionSet
from objectives.tasks.examples import validation_split
from objectives.tasks.task import WholeTask
from storage.gradients import GradientStore
from storage.scores import ScoreStore
from storage.trials import GENERATION, TrialRecord
from study.config.errors import ConfigError
from study.config.study import StudyConfig

from .ascent.ascent import Hyperparameters
from .ascent.jobs import AscentJobs
from .ascent.replay import AscentReplay
from .ascent.validation import validation_samples
from .contenders import count_contenders, count_references
from .genome import Genome, MergeGenome
from .jobs import Jobs, final_roles
from .paths.genome import PathGenome
from .paths.replay import PathReplay
from .sampler import (
    Proposals,
    Replay,
    ReplaySampler,
    default_population,
    distributions,
    start_of,
)
from .schedule import Schedule
from .space import ranges
from .state import ASCENT
from .warm_start import distribution

_DIFFERENCE = 0.02
"""How far a number is moved for its derivative, as a share of its range."""
_SHARE, _MANY = 0.25, 400
"""The share of the questions that a trial is asked by default, if there are at least so many
(docs/search.md)."""


@dataclass(frozen=True)
class SearchRules:
    """What a config determines about the search over a genome, scored on `questions`."""

    config: StudyConfig
    genome: Genome
    questions: QuestionSet

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each parameter."""
        return distributions(self.genome.space)

    def population(self, workers: int = 1) -> int:
        """Return the CMA-ES population of a new study that is started with so many workers."""
        study = self.config.study
        if self.by_gradient:
            return self.config.search.ascents
        if study.population is not None:
            return study.population
        population = default_population(len(self.genome.space), study.trials)
        return math.ceil(population / workers) * workers if study.fit_population else population

    @property
    def by_gradient(self) -> bool:
        """Whether the search follows a gradient."""
        return self.config.search.algorithm == "gradient"

    @cached_property
    def learned_questions(self) -> int:
        """The number of questions that steps of an ascent can ask; the others are for
        validation."""
        share = self.config.search.validation
        return sum(len(validation_split(task.questions, share)[0]) for task in self.questions.tasks)

    @property
    def batch(self) -> int:
        """The number of questions of a step, at most all that it can ask."""
        return min(self.config.search.batch, self.learned_questions)

    def count_final_merges(self, trials: int, population: int) -> int:
        """Return how many final merges follow so many search trials."""
        if self.by_gradient:
            return 2 if trials else 0
        return len(final_roles(trials, population, self.sampled))

    def count_contenders(self, trials: int, population: int) -> int:
        """Return how many merges and models the verdict compares after so many search trials."""
        if self.by_gradient:
            return count_references(self.genome) + self.count_final_merges(trials, population)
        return count_contenders(self.genome, trials, population)

    @property
    def differences(self) -> dict[str, float] | None:
        """How far each parameter of the merge method is moved for its derivative, in its own units;
        None if the search needs no gradient."""
        if not self.by_gradient:
            return None
        space = ranges(self.genome.space)
        return {name.split("/")[-1]: _DIFFERENCE * (r.high - r.low) for name, r in space.items()}

    @property
    def max_hops(self) -> int | None:
        """The layers of the longest path; None if the search is for weights."""
        return self.genome.max_hops if isinstance(self.genome, PathGenome) else None

    def sampler(
        self,
        population: int,
        warm_start: Mapping[str, Any] | None,
        gradients: GradientStore | None = None,
        symmetric: bool = True,
    ) -> ReplaySampler:
        """Return the sampler.

        `warm_start` is the stored start of a study that continues another one
        (`storage.studies.stored_start`), or None. `gradients` are those that the study has stored;
        without them only the start of a search by gradient is known. `symmetric` is False for
        studies that version 0.1.0 began (`study.search.cma.Optimizer`).
        """
        study, genome = self.config.study, self.genome
        if isinstance(genome, PathGenome):
            first = genome.start_probabilities()
            paths = PathReplay(genome.space, study.seed, population, study.sigma, first)
            return ReplaySampler(paths, genome.space)
        space, sigma, cov = genome.space, study.sigma, None
        start = self._start()
        if warm_start is not None:
            mean, sigma, cov = distribution(warm_start)
            start = [float(x) for x in mean]
        if self.by_gradient:
            search = self.config.search
            rule = Hyperparameters(search.steps, rate=search.rate, pull=search.pull)
            ascents = AscentReplay(space, study.seed, population, rule, start, gradients)
            return ReplaySampler(ascents, space)
        replay = Replay(space, study.seed, population, sigma, start, cov, symmetric)
        return ReplaySampler(replay, space)

    def check_start(self) -> None:
        """Check that `search.start` is a model that the search can start at. Raises ConfigError."""
        if self.config.search.start is not None:
            self._point_of(self.config.search.start)

    def _start(self) -> list[float]:
        """Return the start of a search that continues no other, in shares of the ranges."""
        space = ranges(self.genome.space)
        if self.config.search.start is None:
            return start_of(space, self.config.study.seed, self.config.random_init)
        point = self._point_of(self.config.search.start)
        return [r.share(point[name]) for name, r in space.items()]

    def _point_of(self, model: str) -> Mapping[str, float]:
        """Return the point at which one model of the merge is alone, within the bounds.

        Raises ConfigError.
        """
        genome = self.genome
        if not any(name.endswith("/weight") for name in genome.space):
            method = self.config.genome.merge_method
            raise ConfigError(f"search.start: the search over {method} has no weights")
        for baseline in genome.baselines():
            name = baseline.name
            if name in genome.models and model in (name, genome.references[name]):
                return baseline.params
        choices = ", ".join(genome.models)
        raise ConfigError(f"search.start: {model} is not among the models of the merge, {choices}")

    def jobs(self, replay: Proposals) -> Jobs:
        """Return the work of the study, up to the config's number of trials."""
        if isinstance(replay, AscentReplay):
            assert isinstance(self.genome, MergeGenome)
            return AscentJobs(self.genome, replay, self.config.study.trials)
        return Jobs(self.genome, replay, self.config.study.trials, self.sampled)

    @property
    def share(self) -> float:
        """The share of the search questions, measured in tokens, that a trial is asked."""
        if self.by_gradient:
            return 1.0
        configured = self.config.search.questions
        if configured is not None:
            return configured
        tasks = [task for task in self.questions.tasks if not isinstance(task, WholeTask)]
        return _SHARE if sum(len(task.questions) for task in tasks) >= _MANY else 1.0

    @property
    def sampled(self) -> bool:
        """Whether a trial of the search is asked only some of the questions."""
        return self.share < 1

    @property
    def ranking_text(self) -> str:
        """What a trial is asked and what it is ranked by, in words."""
        count, soft = self.questions.questions, self.config.search.soft
        if self.by_gradient:
            batch, learned = self.batch, self.learned_questions
            others = f"; {count - learned} others are for validation" if count > learned else ""
            return f"each step follows the gradient of {batch} questions of {learned}{others}"
        part = f"{100 * self.share:.3g}% of " if self.sampled else ""
        share = "" if soft == 1 else f"{100 * soft:.3g}% the "
        by = f"{share}probability of right answers" if soft else "score"
        return f"a trial is asked {part}{count} questions and ranked by its {by}"

    def schedule(self, answers: ScoreStore) -> Schedule | None:
        """Return which questions each generation is asked; None if each is asked all of them."""
        if not self.sampled:
            return None
        search, study = self.config.search, self.config.study
        return Schedule(self.questions, answers, self.share, search.soft, study.seed)

    def samples(
        self, record: TrialRecord, records: Sequence[TrialRecord], answers: ScoreStore
    ) -> Mapping[str, Sample]:
        """Return what a trial was asked of each task, computed from the trials before it; empty if
        it was asked all questions."""
        if ASCENT in record.attributes:
            return validation_samples(self.questions.tasks, self.config.search.validation)
        schedule = self.schedule(answers)
        if schedule is None or not record.sampled:
            return {}
        return schedule.samples(record.attributes[GENERATION], records)
