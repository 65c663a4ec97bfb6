"""Open and check everything that a config names: models, genome, tasks and questions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import transformers

from objectives.derivatives.variables import without_derivative
from objectives.engines.host_memory import available_memory
from objectives.engines.memory import indivisible_dimension, model_dimensions
from objectives.errors import NotLearnable, SourceError, TaskError
from objectives.files.units import size_text
from objectives.merge.path import check_layers, unscalable
from objectives.models.locate import absolute_reference
from objectives.models.sources import Sources
from objectives.scoring import QuestionSet
from objectives.tasks.examples import examples
from objectives.tasks.task import WholeTask
from storage.gradients import GradientStore
from storage.studies import stored_fingerprint, stored_start
from study.config.errors import ConfigError
from study.config.genome import PathConfig, references
from study.config.study import StudyConfig
from study.search.genome import Genome, MergeGenome
from study.search.paths.genome import PathGenome
from study.search.rules import SearchRules
from study.search.sampler import ReplaySampler

from .fingerprint import DRAWS, fingerprint
from .models import check_contexts, open_models
from .tasks import (
    Native,
    few_held_out,
    few_held_out_text,
    lm_eval_tasks,
    native_tasks,
    question_sets,
    split_questions,
)

log = logging.getLogger(__name__)

_SAMPLE = 16
"""Questions of each task that are checked before a search by gradient."""
_MATRICES = 5
"""Square matrices that cmaes holds in memory: the covariance, its factors, temporary ones."""


@dataclass(frozen=True)
class Setup:
    """Everything about a study that does not change while it runs."""

    config: StudyConfig
    locations: Mapping[str, str]
    """By label: the folder or hub id that mergekit reads the model from."""
    sources: Sources
    genome: Genome
    search: QuestionSet
    """The questions that the search is scored on."""
    held_out: QuestionSet
    """The questions that the search never sees."""

    @property
    def rules(self) -> SearchRules:
        """The rules of the search."""
        return SearchRules(self.config, self.genome, self.search)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt with its answer."""
        return max(self.search.longest, self.held_out.longest)

    @property
    def held_out_warning(self) -> str | None:
        """A warning if the held-out questions are too few for a verdict, else None."""
        few = few_held_out(self.config, self.held_out)
        return few_held_out_text(few) if few else None

    def fingerprint(
        self, population: int, warm_start: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """Return the settings that must not change, as `study.setup.fingerprint` does."""
        return fingerprint(self.rules, self.sources, self.held_out, population, warm_start)

    def sampler(
        self, study: optuna.Study, population: int, gradients: GradientStore
    ) -> ReplaySampler:
        """Return the sampler of a stored study, which draws points as when the study began."""
        stored = stored_fingerprint(study)
        symmetric = not stored or DRAWS in stored
        return self.rules.sampler(population, stored_start(study), gradients, symmetric)

    def check_filters(self) -> None:
        """Check that each filter matches a tensor that no earlier filter matches.

        Raises ConfigError.
        """
        filters = self.genome.filters if isinstance(self.genome, MergeGenome) else ()
        tensors = [info.name for info in self.sources.layout] if filters else []
        unmatched = tensors
        for text in filters:
            rest = [name for name in unmatched if text not in name]
            if len(rest) == len(unmatched):
                matches = any(text in name for name in tensors)
                rest_only = " that no earlier filter matches" if matches else ""
                raise ConfigError(f"genome.filters: {text} matches no tensor{rest_only}")
            unmatched = rest


def build(config: StudyConfig, check_values: bool = True, warn: bool = False) -> Setup:
    """Open and check everything that a config names.

    `check_values` reads all weights to check that they are finite. `warn` logs a warning if
    the held-out questions are too few for a verdict.

    Raises ConfigError, SourceError, QuestionError and TaskError.
    """
    try:
        return _build(config, check_values, warn)
    except ConfigError as error:  # the parts of a setup do not know the file
        raise ConfigError(f"{config.file}: {error}") from None


def _build(config: StudyConfig, check_values: bool, warn: bool) -> Setup:
    transformers.utils.logging.set_verbosity_error()
    native = native_tasks(config)
    sources = open_models(config)
    _check_tensor_parallel(config, sources)
    genome = _genome(config, sources)
    search, held_out = _questions(config, native, sources)
    locations = {
        label: absolute_reference(name, config.folder)
        for label, name in references(config.genome).items()
    }
    setup = Setup(config, locations, sources, genome, search, held_out)
    _check_batch(setup)
    _check_learnable(setup)
    setup.rules.check_start()
    check_contexts(sources, setup.longest - 1)
    if warn and setup.held_out_warning:
        log.warning("%s", setup.held_out_warning)
    if check_values:
        count = len(sources.checkpoints)
        log.info("checking the values of %d models in %s", count, _gigabytes(sources))
        sources.check_values()
    return setup


def _check_tensor_parallel(config: StudyConfig, sources: Sources) -> None:
    gpus = config.engine.tensor_parallel_size
    if reason := indivisible_dimension(model_dimensions(sources), gpus):
        raise ConfigError(
            f"engine.tensor_parallel_size: the models cannot be split across {gpus} GPUs: {reason}"
        )


def _genome(config: StudyConfig, sources: Sources) -> Genome:
    if isinstance(config.genome, PathConfig):
        check_layers(sources)
        path = PathGenome(config.genome, config.space, sources.num_layers, unscalable(sources))
        _check_size(len(path.space), config.study.population or 1)
        return path
    genome = MergeGenome(config.genome, config.space, sources.num_layers, config.study.seed)
    name = config.genome.merge_method
    if genome.normalize and config.genome.method.pairwise:
        log.warning("normalize has no effect with %s", name)
    if not genome.space:
        log.warning("%s has no parameters to search: its only merge is one of the baselines", name)
    if config.search.algorithm == "gradient":
        _check_derivatives(config, genome)
    else:
        _check_size(len(genome.space), config.study.population or 1)
    return genome


def _check_batch(setup: Setup) -> None:
    """Check that a step by gradient does not ask a question twice. Raises ConfigError."""
    if not setup.rules.by_gradient:
        return
    search, questions = setup.config.search, setup.search.questions
    learned = setup.rules.learned_questions
    if search.batch > learned and "batch" in search.model_fields_set:
        others = (
            f"; the others of the {questions} search questions are for validation "
            "(search.validation)"
        )
        raise ConfigError(
            f"search.batch: {search.batch} is more than the {learned} questions that steps can "
            f"ask{others if learned < questions else ''}"
        )


def _check_learnable(setup: Setup) -> None:
    """Check that a search by gradient can learn from the first questions of every task.

    Raises NotLearnable, and TaskError if a task of lm-eval fails.
    """
    if not setup.rules.by_gradient:
        return
    for task, prompts_Q in zip(setup.search.tasks, setup.search.prompts_of_tasks, strict=True):
        first = task.with_questions(task.questions[:_SAMPLE])
        try:
            examples(first, prompts_Q[:_SAMPLE], setup.search.tokenizer)
        except NotLearnable as error:
            raise NotLearnable(f"{error}; set search.algorithm: cmaes") from None


def _check_derivatives(config: StudyConfig, genome: MergeGenome) -> None:
    """Check that every parameter that is searched has a derivative. Raises ConfigError."""
    method = config.genome.merge_method
    for name, reason in without_derivative(
        method, {name.split("/")[-1] for name in genome.space}
    ).items():
        raise ConfigError(
            f"space.{name}: search.algorithm gradient needs a derivative, and {name} has no useful "
            f"one: {reason}; remove its range, or set algorithm: cmaes"
        )
    if config.genome.method.pairwise and len(genome.models) > 2:
        log.warning(
            "%s merges the two models with the highest t: a step by gradient leaves the t of the "
            "others as it is",
            method,
        )


def _check_size(parameters: int, population: int) -> None:
    """Check that CMA-ES's square matrices and a generation fit in memory. Raises ConfigError."""
    needed, free = 8 * parameters * (_MATRICES * parameters + 2 * population), available_memory()
    if needed > free:
        raise ConfigError(
            f"genome: {parameters} parameters and a population of {population} need "
            f"{size_text(needed)} of memory, but {size_text(free)} are free: raise "
            "layer_granularity, or use fewer models, fewer filters or a smaller population"
        )


def _questions(
    config: StudyConfig, native: Mapping[str, Native], sources: Sources
) -> tuple[QuestionSet, QuestionSet]:
    """Return the search questions and the held-out questions."""
    tokenizer = sources.vocabulary.tokenizer
    if tokenizer is None:
        reference = sources.reference
        raise SourceError(f"{reference.label}: {reference.folder} has no tokenizer files")
    context = getattr(sources.reference.parsed, "max_position_embeddings", None)
    if config.shuffle and config.limit is None:
        log.warning("shuffle has no effect without limit: all questions are used")
    search, held_out = split_questions(config, native, lm_eval_tasks(config, tokenizer, context))
    if (config.search.questions or 1) < 1 and all(isinstance(task, WholeTask) for task in search):
        raise ConfigError(
            "search.questions: must be 1, because tasks of lm-eval always ask all questions"
        )
    for task in search:
        if not task.questions:
            raise TaskError(f"{task.name}: all questions are held out; lower study.held_out")
    if held_out and len(held_out) < len(search):
        missing = {task.name for task in search} - {task.name for task in held_out}
        log.warning(
            "%s has no held-out questions: there is no weighted held-out score", min(missing)
        )
    return question_sets(config, search, held_out, tokenizer, sources.vocabulary.size, context)


def _gigabytes(sources: Sources) -> str:
    paths = [path for c in sources.checkpoints.values() for path in c.paths]
    return size_text(sum(path.stat().st_size for path in paths))
