"""From a StudyConfig to what a run needs: sources, genome, tasks, and the study's fingerprint."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import transformers

from objectives.engines.host_memory import available
from objectives.engines.memory import indivisible, numbers
from objectives.errors import SourceError, TaskError
from objectives.merge import masks
from objectives.models.fingerprint import fingerprints
from objectives.models.locate import located
from objectives.models.sources import Sources
from objectives.sampling import Sample
from objectives.scoring import QuestionSet
from objectives.tasks.task import WholeTask
from storage.scores import ScoreStore
from storage.trials import GENERATION, TrialRecord
from study.config.errors import ConfigError
from study.config.genome import references
from study.config.schema import StudyConfig
from study.search.genome import Genome
from study.search.sampler import Replay, ReplaySampler, default_population, start_of
from study.search.schedule import SCHEME, Schedule
from study.search.warm_start import distribution, told

from .engine_facts import end_tokens_fact
from .models import check_contexts, open_models
from .tasks import exams, few_held_out, few_held_out_text, lm_eval_tasks, native_tasks, parted

log = logging.getLogger(__name__)

_MATRICES = 5
"""That cmaes has at a time: the covariance, its factors and what it computes them from."""
_SHARE, _MANY = 0.25, 400
"""What a trial is asked by default, of so many questions or more (docs/search.md)."""


@dataclass(frozen=True)
class Setup:
    """Everything about a study that does not change while it runs."""

    config: StudyConfig
    locations: Mapping[str, str]
    """Label to what mergekit reads the model from: a folder, or a hub id."""
    sources: Sources
    genome: Genome
    search: QuestionSet
    held_out: QuestionSet

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return {name: (r.low, r.high) for name, r in self.genome.space.items()}

    def population(self, workers: int = 1) -> int:
        """CMA-ES population of a new study, run by so many workers."""
        study = self.config.study
        if study.population is not None:
            return study.population
        population = default_population(len(self.genome.space), study.trials)
        return math.ceil(population / workers) * workers if study.fit_population else population

    @property
    def held_out_warning(self) -> str | None:
        """That the held-out questions are too few for a verdict, if they are."""
        few = few_held_out(self.config, self.held_out)
        return few_held_out_text(few) if few else None

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max(self.search.longest, self.held_out.longest)

    def sampler(self, population: int, origin: Mapping[str, Any] | None) -> ReplaySampler:
        """`origin` is what warm_start.stored_start gives for the stored study."""
        study, space = self.config.study, self.genome.space
        if origin is not None:
            mean, sigma, cov = distribution(origin)
            replay = Replay(space, study.seed, population, sigma, [float(x) for x in mean], cov)
            return ReplaySampler(replay, space)
        start = start_of(space, study.seed, self.config.random_init)
        return ReplaySampler(Replay(space, study.seed, population, study.sigma, start), space)

    @property
    def share(self) -> float:
        """Of the search questions, by their tokens, what a trial of the search is asked."""
        given = self.config.search.questions
        if given is not None:
            return given
        tasks = [task for task in self.search.tasks if not isinstance(task, WholeTask)]
        return _SHARE if sum(len(task.questions) for task in tasks) >= _MANY else 1.0

    @property
    def rule(self) -> str:
        """What a trial of the search is asked and what it is ranked by, in words."""
        count, soft = self.search.questions, self.config.search.soft
        asked = (
            f"{100 * self.share:.3g}% of {count} questions"
            if self.sampled
            else f"{count} questions"
        )
        part = "" if soft == 1 else f"{100 * soft:.3g}% the "
        by = f"{part}probability of right answers" if soft else "score"
        return f"a trial is asked {asked} and ranked by its {by}"

    @property
    def sampled(self) -> bool:
        """Whether a trial of the search is asked some of the questions."""
        return self.share < 1

    def schedule(self, answers: ScoreStore) -> Schedule | None:
        """Which questions each generation is asked; None where it is all of them."""
        if not self.sampled:
            return None
        search, study = self.config.search, self.config.study
        return Schedule(self.search, answers, self.share, search.soft, study.seed)

    def samples(
        self, record: TrialRecord, records: Sequence[TrialRecord], answers: ScoreStore
    ) -> Mapping[str, Sample]:
        """What a trial was asked of each task, by the trials before it; empty where it was all."""
        schedule = self.schedule(answers)
        if schedule is None or not record.sampled:
            return {}
        return schedule.samples(record.attributes[GENERATION], records)

    def check_filters(self) -> None:
        """Each filter must be the first that some tensor's name holds. Raises ConfigError."""
        tensors = [info.name for info in self.sources.layout] if self.genome.filters else []
        left = tensors
        for text in self.genome.filters:
            rest = [name for name in left if text not in name]
            if len(rest) == len(left):
                there = any(text in name for name in tensors)
                before = " that a filter before it leaves" if there else ""
                raise ConfigError(f"genome.filters: {text} is in no tensor's name{before}")
            left = rest

    def fingerprint(
        self, population: int, origin: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """What must stay the same for trials to belong together, each a short text."""
        study, genome = self.config.study, self.config.genome
        facts = {
            "seed": str(study.seed),
            "population": str(population),
            "sigma": str(study.sigma),
            "random_init": str(self.config.random_init),
            "held_out": str(study.held_out),
            "models": ", ".join(self.genome.models),
            "base_model": str(self.genome.base),
            "filters": ", ".join(self.genome.filters),
            "merge_method": genome.merge_method,
            "tokenizer_source": self.sources.tokenizer_source,
            "masks": masks.SCHEME,
            "parameters": ", ".join(f"{k} {v}" for k, v in sorted(genome.parameters.items())),
            "arithmetic": "ours" if genome.method.fused else f"mergekit {version('mergekit')}",
            "normalize": str(self.genome.normalize),
            "allow_negative_weights": str(genome.allow_negative_weights),
            "smooth": str(genome.smooth),
        }
        if self.sources.config_source is not None:
            facts["config_source"] = self.sources.config_source
        if study.start_from is not None:
            facts["start_from"] = study.start_from if origin is None else told(origin)
        if self.config.search.soft:
            facts["search.soft"] = str(self.config.search.soft)
        if self.sampled:
            facts["search.questions"] = f"{self.share}, {SCHEME}"
        for name, r in self.genome.space.items():
            begin = "" if r.start is None else f" from {r.start}"
            facts[f"space {name}"] = f"{r.low} to {r.high}{begin}"
        for label, digest in fingerprints(self.sources).items():
            facts[f"model {label}"] = digest[:12]
        origins = {task.name: getattr(task, "origin", None) for task in self.search.tasks}
        for task in self.config.tasks:
            how = f"scorer {task.scorer}"
            if origins[task.name] is not None:
                how = f"metric {task.metric}, {origins[task.name]}"
            facts[f"task {task.name}"] = f"weight {task.weight}, {how}"
        for part, exam in (("search", self.search), ("held-out", self.held_out)):
            for name, text in exam.digests().items():
                facts[f"{part} questions of {name}"] = text
        return facts | end_tokens_fact(self.sources)


def _check_size(parameters: int, population: int) -> None:
    """CMA-ES keeps matrices of parameters squared, and a generation. Raises ConfigError."""
    needed, free = 8 * parameters * (_MATRICES * parameters + 2 * population), available()
    if needed > free:
        raise ConfigError(
            f"genome: {parameters} parameters in generations of {population} take "
            f"{needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free: raise layer_granularity, "
            "or take fewer models, fewer filters or a smaller population"
        )


def build(config: StudyConfig, check_values: bool = True, warn: bool = False) -> Setup:
    """Check and open everything. Raises ConfigError, SourceError, QuestionError, TaskError.

    `check_values` reads the models whole, to find what is not a number. `warn` logs that the
    held-out questions are too few.
    """
    transformers.utils.logging.set_verbosity_error()
    native = native_tasks(config)
    sources = open_models(config)
    label = sources.reference.label
    gpus = config.engine.tensor_parallel_size
    if what := indivisible(numbers(sources), gpus):
        raise ConfigError(
            f"engine.tensor_parallel_size: {gpus} cannot share the models evenly: {what}"
        )
    genome = Genome(config.genome, config.space, sources.num_layers, config.study.seed)
    _check_size(len(genome.space), config.study.population or 1)
    if genome.normalize and config.genome.method.pairwise:
        log.warning("normalize has no effect: %s does not normalize", config.genome.merge_method)
    if not genome.space:
        name = config.genome.merge_method
        log.warning("%s has nothing to search here: its one merge stands among the baselines", name)
    tokenizer = sources.vocabulary.tokenizer
    if tokenizer is None:
        raise SourceError(f"{label}: {sources.reference.folder} has no tokenizer files")
    context = getattr(sources.reference.parsed, "max_position_embeddings", None)
    if config.shuffle and config.limit is None:
        log.warning("shuffle changes nothing without limit: all questions are asked")
    search, held = parted(config, native, lm_eval_tasks(config, tokenizer, context))
    if (config.search.questions or 1) < 1 and all(isinstance(task, WholeTask) for task in search):
        raise ConfigError("search.questions: tasks of lm-eval are always asked all; set it to 1")
    for task in search:
        if not task.questions:
            raise TaskError(f"{task.name}: every question is held out; lower study.held_out")
    if held and len(held) < len(search):
        lacking = {task.name for task in search} - {task.name for task in held}
        log.warning("no question is held out of %s: no weighted held-out score", min(lacking))
    locations = {
        label: located(name, config.folder) for label, name in references(config.genome).items()
    }
    asked, held_out = exams(config, search, held, tokenizer, sources.vocabulary.size, context)
    setup = Setup(config, locations, sources, genome, asked, held_out)
    check_contexts(sources, max(setup.search.longest, setup.held_out.longest) - 1)
    if warn and setup.held_out_warning:
        log.warning("%s", setup.held_out_warning)
    if check_values:
        count = len(sources.checkpoints)
        log.info("checking the values of %d models in %s", count, _gigabytes(sources))
        sources.check_values()
    return setup


def _gigabytes(sources: Sources) -> str:
    paths = [path for c in sources.checkpoints.values() for path in c.paths]
    return f"{sum(path.stat().st_size for path in paths) / 1e9:.2f} GB"
