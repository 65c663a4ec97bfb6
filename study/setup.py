"""From a StudyConfig to what a run needs: sources, genome, tasks, and the study's fingerprint."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
import transformers

from objectives.merge import masks
from objectives.merge.errors import SourceError
from objectives.merge.fingerprint import fingerprints
from objectives.merge.locate import locate
from objectives.merge.sources import Sources
from objectives.merge.tokenizer import load_tokenizer
from objectives.scoring import Exam
from objectives.tasks.task import TaskError
from storage.studies import hold_fingerprint, stored_fingerprint

from .config import StudyConfig
from .genome import Genome, references
from .questions import lm_eval_tasks, native_tasks, parted
from .sampler import Replay, ReplaySampler, default_population, start_of

log = logging.getLogger(__name__)


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

    def sampler(self, population: int) -> ReplaySampler:
        study, space = self.config.study, self.genome.space
        start = start_of(space, study.seed, self.config.random_init)
        return ReplaySampler(Replay(space, study.seed, population, study.sigma, start), space)

    def fingerprint(self, population: int) -> dict[str, str]:
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
            "masks": masks.SCHEME,
            "normalize": str(self.genome.normalize),
            "allow_negative_weights": str(genome.allow_negative_weights),
            "smooth": str(genome.smooth),
        }
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
    sources = Sources(folders, label)
    genome = Genome(config.genome, config.space, sources.num_layers, config.study.seed)
    tokenizer = load_tokenizer(label, folders[label])
    if tokenizer is None:
        raise SourceError(f"{label}: {folders[label]} has no tokenizer files")
    context = sources.reference.config.get("max_position_embeddings")
    search, held = parted(config, native, lm_eval_tasks(config, tokenizer, context))
    for task in search:
        if not task.questions:
            raise TaskError(f"{task.name}: every question is held out; lower study.held_out")
    if held and len(held) < len(search):
        lacking = {task.name for task in search} - {task.name for task in held}
        log.warning("no question is held out of %s: no weighted held-out score", min(lacking))
    locations = {
        label: str(folders[label]) if (config.folder / name).is_dir() else name
        for label, name in wanted.items()
    }
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


def check_fingerprint(
    setup: Setup,
    study: optuna.Study,
    dtype: str | None = None,
    begun: bool = False,
    workers: int = 1,
) -> int:
    """The study's population, once its stored fingerprint is found to be the config's.

    A population that the config does not give is the stored one, so that the budget of a study
    may grow. With the `dtype` of an engine a new study's fingerprint is stored, and trials of
    another dtype are refused; without, nothing is written. A study with workers has `begun`
    before its first trial. A new study's population suits `workers` where the config lets it.
    Raises StudyMismatch.
    """
    stored = stored_fingerprint(study)
    population = setup.population(workers)
    if setup.config.study.population is None and "population" in stored:
        population = int(stored["population"])
    facts = setup.fingerprint(population)
    if dtype is not None:
        facts["engine.dtype"] = dtype
    elif "engine.dtype" in stored:
        facts["engine.dtype"] = stored["engine.dtype"]
    hold_fingerprint(study, facts, store=dtype is not None, begun=begun)
    return population


def _gigabytes(sources: Sources) -> str:
    paths = [path for c in sources.checkpoints.values() for path in c.paths]
    return f"{sum(path.stat().st_size for path in paths) / 1e9:.2f} GB"
