"""The fingerprint of a study: the settings that must stay the same for its trials to be comparable.

Its keys and texts are stored with every study. Changing any of them makes stored studies look
as if their settings had changed, so it needs a migration.
"""

import logging
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any

from objectives.merge import masks
from objectives.models.fingerprint import fingerprints
from objectives.models.sources import Sources
from objectives.scoring import QuestionSet
from study.config.genome import GenomeConfig
from study.search.ascent.jobs import ASCENT_SCHEME
from study.search.paths.genome import PathGenome
from study.search.rules import SearchRules
from study.search.schedule import SCHEME
from study.search.space import ranges
from study.search.warm_start import start_text

from .engine_facts import END_TOKENS, end_tokens_fact

log = logging.getLogger(__name__)

DRAWS = "search.draws"
"""How CMA-ES draws its points. Studies created by version 0.1.0 lack it: see
`study.search.cma.Optimizer`."""
_LATER_FACTS = (END_TOKENS, DRAWS)
"""Facts that older studies lack. Such a study keeps its original behaviour."""
_OF_ANOTHER_SEARCH = {
    *("genome.kind", "models", "base_model", "filters", "merge_method", "parameters", "smooth"),
    "held_out",
}
_OF_ANOTHER_SEARCH_PREFIXES = ("model ", "search questions of ", "held-out questions of ")
"""Keys of what is merged and asked; the prefixes are followed by the name of a model or a task."""


def fingerprint(
    rules: SearchRules,
    sources: Sources,
    held_out: QuestionSet,
    population: int,
    warm_start: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the fingerprint: by key, a short text for each setting that a study must not change.

    `warm_start` is the stored start of a study with `start_from`, or None.
    """
    config = rules.config
    facts = {
        "seed": str(config.study.seed),
        "population": str(population),
        "sigma": str(config.study.sigma),
        "random_init": str(config.random_init),
        "held_out": str(config.study.held_out),
    } | _merge_facts(rules, sources)
    if config.study.start_from is not None:
        facts["start_from"] = (
            config.study.start_from if warm_start is None else start_text(warm_start)
        )
    if rules.by_gradient:
        return facts | _ascent_facts(rules) | _space_facts(rules, sources, held_out)
    of_paths = isinstance(rules.genome, PathGenome)
    facts[DRAWS] = "CatCMA with margin, symmetric root" if of_paths else "symmetric root"
    if config.search.soft:
        facts["search.soft"] = str(config.search.soft)
    if rules.sampled:
        facts["search.questions"] = f"{rules.share}, {SCHEME}"
    return facts | _space_facts(rules, sources, held_out)


def without_new_facts(
    facts: Mapping[str, str], stored: Mapping[str, str], begun: bool
) -> dict[str, str]:
    """Return the facts; for a study that has `begun`, without those that it did not store because
    later versions added them."""
    if not begun or not stored:
        return dict(facts)
    lacking = [key for key in _LATER_FACTS if key in facts and key not in stored]
    if END_TOKENS in lacking:
        log.warning(
            "the study was created by a version that did not read generation_config.json: its "
            "answers end only at the end tokens of config.json; to use %s too, choose a new "
            "study.name",
            facts[END_TOKENS],
        )
    return {key: text for key, text in facts.items() if key not in lacking}


def is_same_search(differing: Collection[str]) -> bool:
    """Return whether studies whose fingerprints differ in these keys search merges of the same
    models, by the same method, on the same questions."""
    return _OF_ANOTHER_SEARCH.isdisjoint(differing) and not any(
        key.startswith(_OF_ANOTHER_SEARCH_PREFIXES) for key in differing
    )


def _ascent_facts(rules: SearchRules) -> dict[str, str]:
    search = rules.config.search
    start = {} if search.start is None else {"search.start": search.start}
    return start | {
        "search.algorithm": f"gradient, {ASCENT_SCHEME}",
        "search.steps": str(search.steps),
        "search.batch": str(search.batch),
        "search.loss": f"{search.loss}, q {search.loss_q}" if search.loss_q else search.loss,
        "search.rate": str(search.rate),
        "search.pull": str(search.pull),
        "search.kept_out": str(search.validation),
    }


def _space_facts(rules: SearchRules, sources: Sources, held_out: QuestionSet) -> dict[str, str]:
    facts = {}
    for name, r in ranges(rules.genome.space).items():
        start = "" if r.start is None else f" from {r.start}"
        facts[f"space {name}"] = f"{r.low} to {r.high}{start}"
    for label, digest in fingerprints(sources).items():
        facts[f"model {label}"] = digest[:12]
    return facts | _task_facts(rules, held_out) | end_tokens_fact(sources)


def _merge_facts(rules: SearchRules, sources: Sources) -> dict[str, str]:
    config, genome = rules.config.genome, rules.genome
    if isinstance(genome, PathGenome):
        return _path_facts(genome, sources)
    assert isinstance(config, GenomeConfig)
    facts = {
        "models": ", ".join(genome.models),
        "base_model": str(genome.base),
        "filters": ", ".join(genome.filters),
        "merge_method": config.merge_method,
        "tokenizer_source": sources.tokenizer_source,
        "masks": masks.SCHEME,
        "parameters": ", ".join(f"{k} {v}" for k, v in sorted(config.parameters.items())),
        "arithmetic": "ours" if config.method.native else f"mergekit {version('mergekit')}",
        "normalize": str(genome.normalize),
        "allow_negative_weights": str(config.allow_negative_weights),
        "smooth": str(config.smooth),
    }
    if sources.config_source is not None:
        facts["config_source"] = sources.config_source
    return facts


def _path_facts(genome: PathGenome, sources: Sources) -> dict[str, str]:
    config = genome.config
    return {
        "genome.kind": config.kind,
        "models": ", ".join(genome.models),
        "max_hops": str(genome.max_hops),
        "repeats": str(config.repeats),
        "window": str(config.window),
        "scale_layers": str(any(name.endswith("/scale") for name in genome.space)),
        "fix_ends": str(config.fix_ends),
        "hop_penalty": str(config.hop_penalty),
        "tokenizer_source": sources.tokenizer_source,
    }


def _task_facts(rules: SearchRules, held_out: QuestionSet) -> dict[str, str]:
    facts = {}
    versions = {task.name: getattr(task, "version", None) for task in rules.questions.tasks}
    for task in rules.config.tasks:
        scoring = f"scorer {task.scorer}"
        if versions[task.name] is not None:
            scoring = f"metric {task.metric}, {versions[task.name]}"
        facts[f"task {task.name}"] = f"weight {task.weight}, {scoring}"
    for split, questions in (("search", rules.questions), ("held-out", held_out)):
        for name, text in questions.digests().items():
            facts[f"{split} questions of {name}"] = text
    return facts
