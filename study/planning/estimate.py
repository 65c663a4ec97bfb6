"""What a study will take: parameters, generations, memory, tokens and time."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.scoring import QuestionSet
    from study.config.schema import StudyConfig
    from study.planning.cost import Card, Tokens
    from study.setup.setup import Setup

_GB = 1e9
_MOST_MEMORY = 1e15


def _plan(
    path: Path, gpu: str, host: float, workers: int, task_folders: list[Path]
) -> dict[str, Any]:
    from objectives.engines.memory import kv_tokens_for, sizes
    from objectives.errors import EngineError
    from study.config.errors import ConfigError
    from study.config.load import load_config
    from study.planning import cost
    from study.setup.engine import GPU_BATCH_TOKENS
    from study.setup.setup import build

    if not host <= _MOST_MEMORY:
        raise ConfigError(f"--host-memory {host / _GB:g}: must be at most {_MOST_MEMORY / _GB:g}")
    config, card = load_config(path, task_folders), _card(gpu)
    setup = build(config, check_values=False)
    setup.check_filters()
    host /= workers
    engine = config.engine
    dtype, batch_tokens = engine.dtype or "bfloat16", engine.batch_tokens or GPU_BATCH_TOKENS
    kv_tokens = kv_tokens_for(batch_tokens, setup.longest)
    gpus = engine.tensor_parallel_size
    method = config.genome.merge_method
    needed = sizes(
        setup.sources, dtype, batch_tokens, min(1024, batch_tokens), kv_tokens, gpus, method
    )
    found = _search(config, setup, workers) | {"gpu": gpu, "workers": workers}
    found["gpus"] = workers * gpus
    found["memory"] = needed.table(int(card.memory), int(host))
    try:
        place = needed.choose_residence(engine.sources, int(card.memory), int(host))
    except EngineError:
        return found | {"sources": None, "warnings": [*found["warnings"], "it does not fit"]}
    tasks = _tokens(setup)
    weights, tokens = _weights(setup), sum(t.computed for t in tasks.values())
    merge = cost.merge_seconds(needed, place, card, method)
    scoring = cost.scoring_seconds(weights, tokens, card, gpus)
    trial = cost.trial_seconds(merge, scoring)
    everything, held_out = (
        cost.trial_seconds(merge, cost.scoring_seconds(weights, _all_tokens(exam), card, gpus))
        for exam in (setup.search, setup.held_out)
    )
    merges = _in_the_end(setup, found["trials"])
    end = [(merges["search questions"], everything), (merges["held-out questions"], held_out)]
    waves = cost.by_generation(found["trials"], found["population"])
    rounds = [(found["baselines"], everything), *((wave, trial) for wave in waves), *end]
    return found | {
        "sources": place,
        "tokens": {name: asdict(t) for name, t in tasks.items()},
        "arithmetic": [
            f"score: 2 x {weights / 1e9:.2f}e9 weights x {tokens} tokens at "
            f"{2 * weights * tokens / scoring / 1e12:.0f} TFLOP/s = {scoring:.2f} s",
            f"merge and load: {sum(needed.sources.values()) / _GB:.1f} GB of sources "
            f"({place}), {gpus * needed.model / _GB:.1f} GB of model, {method} = {merge:.2f} s",
        ],
        "in_the_end": merges,
        "seconds_a_trial": round(trial, 2),
        "seconds_in_the_end": round(cost.seconds_of(end, workers), 2),
        "seconds": round(cost.START_SECONDS + cost.seconds_of(rounds, workers)),
    }


def _tokens(setup: "Setup") -> "dict[str, Tokens]":
    """Each task's tokens in a trial of the search."""
    from objectives.tasks.task import WholeTask
    from study.planning.cost import tokens_of

    share = setup.rules.share
    whole = {name: tokens_of(prompts) for name, prompts in setup.search.prompts.items()}
    shares = {t.name: 1.0 if isinstance(t, WholeTask) else share for t in setup.search.tasks}
    return {name: tokens.sampled(shares[name]) for name, tokens in whole.items()}


def _all_tokens(exam: "QuestionSet") -> int:
    from study.planning.cost import tokens_of

    return sum(tokens_of(prompts).computed for prompts in exam.prompts.values())


def _in_the_end(setup: "Setup", trials: int) -> dict[str, int]:
    """How many merges are asked all questions of either kind when the search is over."""
    kinds = [baseline.kind for baseline in setup.genome.baselines()]
    compared = len(kinds) - max(0, kinds.count("uniform") - 1)  # of these the best
    concluded = 2 + setup.rules.sampled if trials else 0  # the best trial again, if it had a sample
    held_out = compared + (3 if trials else 0) if setup.held_out.tasks else 0
    return {"search questions": concluded, "held-out questions": held_out}


def _search(config: "StudyConfig", setup: "Setup", workers: int) -> dict[str, Any]:
    """The search's own numbers, and whether it has generations enough."""
    from study.planning import cost

    parameters = len(setup.genome.space)
    trials = config.study.trials if parameters else 0
    population = setup.rules.population(workers)
    generations = cost.generations(trials, population)
    warnings = []
    if parameters and generations < cost.ENOUGH_GENERATIONS:
        layers = setup.sources.num_layers
        granularity = config.genome.layer_granularity or layers
        budget = cost.ENOUGH_GENERATIONS * population
        advice = [f"trials: {budget}"]
        per_block = parameters * granularity // layers
        wider = cost.coarser(layers, granularity, per_block, trials, config.study.population)
        if wider is not None:
            advice.append(f"layer_granularity: {wider[0]} ({wider[1]} parameters)")
        warnings.append(
            f"{generations} generations are few for {parameters} parameters; "
            f"{cost.ENOUGH_GENERATIONS} need " + ", or ".join(advice)
        )
    if setup.held_out_warning:
        warnings.append(setup.held_out_warning)
    return {
        "study": config.name,
        "parameters": parameters,
        "population": population,
        "trials": trials,
        "baselines": len(setup.genome.baselines()),
        "generations": generations,
        "warnings": warnings,
    }


def _card(name: str) -> "Card":
    from study.config.errors import ConfigError
    from study.planning.cost import CARDS, Card

    known = CARDS.get(name.lower())
    if known is not None:
        return known
    digits = name.lower().removesuffix("gb")
    is_size = digits.isdecimal() and len(digits) <= 6 and digits != name.lower()
    if not is_size or int(digits) == 0:
        raise ConfigError(f"--gpu {name}: known are {', '.join(CARDS)}, or a size such as 24GB")
    slow = CARDS["l4"]
    return Card(name, int(digits) * _GB, slow.flops, slow.bandwidth, slow.link)


def _weights(setup: "Setup") -> int:
    """What each token is multiplied with: all but the embedding and the head."""
    layout = setup.sources.layout
    return sum(math.prod(i.shape) for i in layout if i.weight.vocabulary_axis is None)
