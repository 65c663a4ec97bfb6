"""An estimate of what a study needs: generations, memory, tokens and time.

It reads headers and question files only; no weights and no GPU.
"""

import dataclasses
import math
import re

import torch

from objectives.engines.memory import (
    ROW_TOKENS,
    Sizes,
    kv_tokens_for,
    sizes,
    sizes_of_gradient_step,
    sizes_of_paths,
)
from objectives.errors import EngineError
from objectives.files.units import count_text, size_text
from objectives.merge.path import fixed_places
from objectives.scoring import QuestionSet
from objectives.tasks.task import WholeTask
from study.config.errors import ConfigError
from study.config.genome import GenomeConfig
from study.config.study import StudyConfig
from study.search.ascent.jobs import CHECKPOINT_INTERVAL
from study.search.genome import MergeGenome
from study.setup.engine import GPU_BATCH_TOKENS
from study.setup.setup import Setup, build
from study.verdict.power import detectable_lead

from . import cost
from .cost import CARDS, Card, Tokens
from .data import GB, Estimate, Hardware, SearchSize, TimeEstimate

_DEFAULT_GPU = "h100"
"""The GPU of an estimate if the machine has none."""
_MAX_HOST_MEMORY = 1e15
_MAX_SEQUENCES = 1024
"""Prompts that an engine computes at a time, at most."""


def estimate(config: StudyConfig, hardware: Hardware) -> Estimate:
    """Estimate what a study needs.

    Raises ConfigError, and the errors of `build` if models or questions cannot be used.
    """
    if not hardware.host_memory <= _MAX_HOST_MEMORY:
        raise ConfigError(
            f"--host-memory {hardware.host_memory / GB:g}: must be at most "
            f"{_MAX_HOST_MEMORY / GB:g}"
        )
    own = this_gpu()
    card = _card(hardware.gpu) if hardware.gpu else own or CARDS[_DEFAULT_GPU]
    setup = build(config, check_values=False)
    setup.check_filters()
    search = _search_size(setup, hardware.workers)
    needed = _memory(setup)
    device, host = int(card.memory), int(hardware.host_memory / hardware.workers)
    try:
        place = needed.choose_residence(config.engine.sources, device, host)
    except EngineError:
        time = None
    else:
        time = _time(setup, search, needed, place, card, hardware.workers)
    gpus = hardware.workers * needed.gpus
    is_assumed = hardware.gpu is None and own is None
    return Estimate(search, hardware, card.name, is_assumed, gpus, needed.table(device, host), time)


def this_gpu() -> Card | None:
    """Return this machine's first GPU, or None if it has none. One that is not in `CARDS` is
    named by its memory, as in `24GB`, and has the rates of an L4."""
    if not torch.cuda.is_available():
        return None
    words = re.split("[ -]", torch.cuda.get_device_name().lower())
    memory = float(torch.cuda.get_device_properties().total_memory)
    matching = (card for name, card in CARDS.items() if name in words)
    card = next(matching, None) or _card(f"{max(1, round(memory / GB))}GB")
    return dataclasses.replace(card, memory=memory)


def _search_size(setup: Setup, workers: int) -> SearchSize:
    """Return the numbers of the search, with a warning if it has few generations."""
    config, parameters = setup.config, len(setup.genome.space)
    trials = config.study.trials if parameters else 0
    population = setup.rules.population(workers)
    generations = cost.generations(trials, population)
    warnings = []
    few = generations < cost.ENOUGH_GENERATIONS and not setup.rules.by_gradient
    if parameters and few:
        warnings.append(_few_generations(setup, parameters, population))
    if setup.held_out_warning:
        warnings.append(setup.held_out_warning)
    return SearchSize(
        study=config.name,
        parameters=parameters,
        population=population,
        trials=trials,
        baselines=len(setup.genome.baselines()),
        generations=generations,
        held_out_questions=setup.held_out.questions,
        detectable_lead=detectable_lead(setup, trials, population),
        warnings=warnings,
    )


def _few_generations(setup: Setup, parameters: int, population: int) -> str:
    """Return a warning with the settings that would give the search enough generations."""
    config, layers, trials = setup.config, setup.sources.num_layers, setup.config.study.trials
    enough = cost.ENOUGH_GENERATIONS * population
    asked = round(enough * setup.rules.share * setup.search.questions)
    remedies = [f"trials: {enough} (about {asked:,} questions)"]
    if isinstance(config.genome, GenomeConfig):
        granularity = config.genome.layer_granularity or layers
        per_block = parameters * granularity // layers
        coarser = cost.coarser(layers, granularity, per_block, trials, config.study.population)
        if coarser is not None:
            remedies.append(f"layer_granularity: {coarser[0]} ({coarser[1]} parameters)")
    if config.gradient_applies:
        remedies.append(
            "search: {algorithm: gradient}, which needs fewer questions (docs/gradient.md)"
        )
    return (
        f"{cost.generations(trials, population)} generations are few for {parameters} parameters; "
        f"for {cost.ENOUGH_GENERATIONS} generations set {', or '.join(remedies)}"
    )


def _memory(setup: Setup) -> Sizes:
    """Return the memory that the study needs on each GPU and on the host."""
    engine = setup.config.engine
    if setup.rules.by_gradient:
        tokens = sum(t.computed for t in _tokens_of_trial(setup).values())
        return sizes_of_gradient_step(
            setup.sources,
            engine.dtype or "bfloat16",
            min(tokens, ROW_TOKENS),
            setup.config.search.batch,
            setup.config.genome.merge_method,
        )
    batch_tokens = engine.batch_tokens or GPU_BATCH_TOKENS
    if setup.rules.max_hops is not None and _needs_transformers(setup):
        return sizes_of_paths(
            setup.sources, engine.dtype or "bfloat16", batch_tokens, setup.rules.max_hops
        )
    return sizes(
        setup.sources,
        engine.dtype or "bfloat16",
        batch_tokens,
        min(_MAX_SEQUENCES, batch_tokens),
        kv_tokens_for(batch_tokens, setup.longest),
        engine.tensor_parallel_size,
        setup.config.genome.merge_method,
        setup.rules.max_hops,
    )


def _needs_transformers(setup: Setup) -> bool:
    """Return whether vLLM is not configured or cannot run the study's paths."""
    return setup.config.engine.kind == "transformers" or fixed_places(setup.sources) is not None


def _time(
    setup: Setup, search: SearchSize, needed: Sizes, place: str, card: Card, workers: int
) -> TimeEstimate:
    """Return the expected time of the study with its sources in this place."""
    method, weights = setup.config.genome.merge_method, _num_weights(setup)
    tokens = _tokens_of_trial(setup)
    merging = cost.merge_seconds(needed, place, card, method)

    def scoring(tokens: int) -> float:
        return cost.scoring_seconds(weights, tokens, card, needed.gpus)

    sampled = sum(t.computed for t in tokens.values())
    trial = cost.trial_seconds(merging, scoring(sampled))
    checkpoints, validation, questions = 0, 0.0, None
    if setup.rules.by_gradient:
        trial = cost.step_seconds(merging, scoring(sampled), _derivative_merges(setup))
        ascent = setup.config.search
        checkpoints = ascent.ascents * math.ceil(search.generations / CHECKPOINT_INTERVAL)
        validation = cost.trial_seconds(
            merging, 2 * scoring(round(ascent.validation * _all_tokens(setup.search)))
        )
        asked = setup.search.questions - setup.rules.learned_questions
        questions = 3 * search.trials * setup.rules.batch + checkpoints * asked
    all_search = cost.trial_seconds(merging, scoring(_all_tokens(setup.search)))
    all_held_out = cost.trial_seconds(merging, scoring(_all_tokens(setup.held_out)))
    finals = setup.rules.count_final_merges(search.trials, search.population)
    contenders = setup.rules.count_contenders(search.trials, search.population)
    held_out_merges = contenders if setup.held_out.tasks else 0
    end = [(finals, all_search), (held_out_merges, all_held_out)]
    waves = cost.by_generation(search.trials, search.population)
    rounds = [(search.baselines, all_search), *((wave, trial) for wave in waves), *end]
    rounds.append((checkpoints, validation))
    return TimeEstimate(
        place,
        tokens,
        [
            f"score: 2 x {count_text(weights)} weights x {count_text(sampled)} tokens at "
            f"{2 * weights * sampled / scoring(sampled) / 1e12:.0f} TFLOP/s = "
            f"{scoring(sampled):.2f} s",
            f"merge and load: {size_text(sum(needed.sources.values()))} of sources "
            f"({place}), {size_text(needed.gpus * needed.model)} of model, {method} = "
            f"{merging:.2f} s",
            *_depths(setup, sampled, card, needed.gpus),
        ],
        finals,
        held_out_merges,
        round(trial, 2),
        round(cost.seconds_of(end, workers), 2),
        round(cost.START_SECONDS + cost.seconds_of(rounds, workers)),
        questions,
    )


def _depths(setup: Setup, tokens: int, card: Card, gpus: int) -> list[str]:
    """Return a line with the time of scoring the first path of a search, and the longest one."""
    if setup.rules.max_hops is None:
        return []
    layers, weights = setup.sources.num_layers, _num_weights(setup)
    seconds = {
        depth: cost.scoring_seconds(weights * depth // layers, tokens, card, gpus)
        for depth in (layers, setup.rules.max_hops)
    }
    of_depths = ", ".join(f"{depth} layers {value:.2f} s" for depth, value in seconds.items())
    return [f"score by depth: {of_depths}; memory is that of the longest path"]


def _derivative_merges(setup: Setup) -> float:
    """Return how many merges the derivatives of a step take as long as."""
    genome, method = setup.genome, setup.config.genome.method
    assert isinstance(genome, MergeGenome)
    if method.has_kernel:
        return cost.FUSED_DERIVATIVES
    blocks = len(genome.knots) * (len(genome.filters) + 1)
    return 2 * math.ceil(len(genome.space) / blocks)


def _tokens_of_trial(setup: Setup) -> dict[str, Tokens]:
    """Return each task's tokens in a search trial, or in a step of an ascent."""
    shares = {
        task.name: 1.0 if isinstance(task, WholeTask) else setup.rules.share
        for task in setup.search.tasks
    }
    if setup.rules.by_gradient:
        share = min(1.0, setup.rules.batch / setup.search.questions)
        shares = dict.fromkeys(shares, share)
    return {
        name: cost.tokens_of(prompts).sampled(shares[name])
        for name, prompts in setup.search.prompts.items()
    }


def _num_weights(setup: Setup) -> int:
    """Return the number of weights in a token's matrix products: all but embedding and head."""
    layout = setup.sources.layout
    return sum(math.prod(i.shape) for i in layout if i.weight.vocabulary_axis is None)


def _all_tokens(questions: QuestionSet) -> int:
    """Return the tokens of asking every question."""
    return sum(cost.tokens_of(prompts).computed for prompts in questions.prompts.values())


def _card(name: str) -> Card:
    """Return the GPU of this name; for a memory size, a GPU with the rates of an L4."""
    card = CARDS.get(name.lower())
    if card is not None:
        return card
    digits = name.lower().removesuffix("gb")
    is_size = digits.isdecimal() and len(digits) <= 6 and digits != name.lower()
    if not is_size or int(digits) == 0:
        raise ConfigError(f"--gpu {name}: must be {', '.join(CARDS)}, or a size such as 24GB")
    slow = CARDS["l4"]
    return Card(name, int(digits) * GB, slow.flops, slow.bandwidth, slow.link)
