"""The rules of a study's search: its population, its sampler, and the questions of each trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from objectives.sampling import Sample
from objectives.scoring import QuestionSet
from objectives.tasks.task import WholeTask
from storage.scores import ScoreStore
from storage.trials import GENERATION, TrialRecord
from study.config.schema import StudyConfig

from .genome import Genome
from .jobs import Jobs
from .sampler import Replay, ReplaySampler, default_population, start_of
from .schedule import Schedule
from .warm_start import distribution

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
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The lower and upper bound of each parameter."""
        return {name: (r.low, r.high) for name, r in self.genome.space.items()}

    def population(self, workers: int = 1) -> int:
        """Return the CMA-ES population of a new study that is started with so many workers."""
        study = self.config.study
        if study.population is not None:
            return study.population
        population = default_population(len(self.genome.space), study.trials)
        return math.ceil(population / workers) * workers if study.fit_population else population

    def sampler(self, population: int, origin: Mapping[str, Any] | None) -> ReplaySampler:
        """Return the sampler; `origin` is the stored start of a study that continues another one
        (`storage.studies.stored_start`), or None."""
        study, space = self.config.study, self.genome.space
        if origin is not None:
            mean, sigma, cov = distribution(origin)
            replay = Replay(space, study.seed, population, sigma, [float(x) for x in mean], cov)
            return ReplaySampler(replay, space)
        start = start_of(space, study.seed, self.config.random_init)
        return ReplaySampler(Replay(space, study.seed, population, study.sigma, start), space)

    def jobs(self, replay: Replay) -> Jobs:
        """Return the work of the study, up to the config's number of trials."""
        return Jobs(self.genome, replay, self.config.study.trials, self.sampled)

    @property
    def share(self) -> float:
        """The share of the search questions, measured in tokens, that a trial is asked."""
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
        schedule = self.schedule(answers)
        if schedule is None or not record.sampled:
            return {}
        return schedule.samples(record.attributes[GENERATION], records)
