"""From a StudyConfig to what a run needs: sources, genome, tasks, and the study's fingerprint."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import transformers

from objectives.engines.memory import indivisible
from objectives.errors import SourceError, TaskError
from objectives.merge import masks
from objectives.models.fingerprint import fingerprints
from objectives.models.locate import locate, located
from objectives.models.sources import Sources
from objectives.models.vocabulary import BASE, MODEL, UNION
from objectives.sampling import Sample
from objectives.scoring import Exam
from objectives.tasks.task import WholeTask
from storage.scores import Answers
from storage.trials import GENERATION, TrialRecord
from study.config.errors import ConfigError
from study.config.genome import references
from study.config.schema import StudyConfig
from study.search.genome import Genome
from study.search.sampler import Replay, ReplaySampler, default_population, start_of
from study.search.schedule import SCHEME, Schedule
from study.search.warm_start import distribution, told

from .tasks import lm_eval_tasks, native_tasks, parted

log = logging.getLogger(__name__)

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
    search: Exam
    held_out: Exam

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

    def schedule(self, answers: Answers) -> Schedule | None:
        """Which questions each generation is asked; None where it is all of them."""
        if not self.sampled:
            return None
        search, study = self.config.search, self.config.study
        return Schedule(self.search, answers, self.share, search.soft, study.seed)

    def samples(
        self, record: TrialRecord, records: Sequence[TrialRecord], answers: Answers
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
        return facts


def build(config: StudyConfig, check_values: bool = True) -> Setup:
    """Check and open everything. Raises ConfigError, SourceError, QuestionError, TaskError.

    `check_values` reads the models whole, to find what is not a number.
    """
    transformers.utils.logging.set_verbosity_error()
    native = native_tasks(config)
    wanted = references(config.genome)
    folders = {label: locate(name, config.folder) for label, name in wanted.items()}
    reference = config.genome.base_model or config.genome.models[0]
    label = next(label for label, name in wanted.items() if name == reference)
    labels = {name: MODEL + label for label, name in wanted.items()} | {BASE: BASE, UNION: UNION}
    source = labels[config.genome.tokenizer_source or BASE]
    has_base = config.genome.base_model is not None and config.genome.method.base != "unused"
    sources = Sources(folders, label, source, has_base)
    gpus = config.engine.tensor_parallel_size
    if what := indivisible(sources.merged_config("float32"), gpus):
        raise ConfigError(
            f"engine.tensor_parallel_size: {gpus} cannot share the models evenly: {what}"
        )
    genome = Genome(config.genome, config.space, sources.num_layers, config.study.seed)
    if genome.normalize and config.genome.method.pairwise:
        log.warning("normalize has no effect: %s does not normalize", config.genome.merge_method)
    if not genome.space:
        name = config.genome.merge_method
        log.warning("%s has nothing to search here: its one merge stands among the baselines", name)
    tokenizer = sources.vocabulary.tokenizer
    if tokenizer is None:
        raise SourceError(f"{label}: {folders[label]} has no tokenizer files")
    context = sources.reference.config.get("max_position_embeddings")
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
    locations = {label: located(name, config.folder) for label, name in wanted.items()}
    setup = Setup(
        config, locations, sources, genome, Exam(search, tokenizer), Exam(held, tokenizer)
    )
    longest = max(setup.search.longest, setup.held_out.longest) - 1  # the last is not read again
    if context is not None and longest > context:
        raise TaskError(
            f"the longest prompt has {longest} tokens with its answer, the models take {context}; "
            "shorten the template (num_fewshot) or leave the question out"
        )
    if check_values:
        log.info("checking the values of %d models in %s", len(folders), _gigabytes(sources))
        sources.check_values()
    return setup


def _gigabytes(sources: Sources) -> str:
    paths = [path for c in sources.checkpoints.values() for path in c.paths]
    return f"{sum(path.stat().st_size for path in paths) / 1e9:.2f} GB"
