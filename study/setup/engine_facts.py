"""What a study stores about its engine, so that all its trials are scored alike.

`engine.dtype` is what the model computes in. `engine.threads` is the number of CPU threads: with
another number floating-point sums round differently. `engine.end_tokens` are the tokens that end
an answer, if generation_config.json names other ones than config.json.

Studies that began before an entry existed lack it. They continue as they began: with the threads
of each run, and with the end tokens of config.json alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna
import torch

from storage.studies import stored_fingerprint

if TYPE_CHECKING:  # they take seconds to import
    from objectives.models.sources import Sources
    from study.setup.engine import EngineChoice

log = logging.getLogger(__name__)

DTYPE, THREADS, END_TOKENS = "engine.dtype", "engine.threads", "engine.end_tokens"


def end_tokens_fact(sources: "Sources") -> dict[str, str]:
    """The end tokens, if config.json alone gives others."""
    ends = sorted(sources.ends.all)
    if ends == sorted(sources.end_tokens(generation=False).all):
        return {}
    return {END_TOKENS: ", ".join(map(str, ends)) or "none"}


def engine_facts(
    choice: "EngineChoice | None", stored: Mapping[str, str], begun: bool
) -> dict[str, str]:
    """The dtype and threads to compare with the `stored` fingerprint, or to store unless the
    study has `begun`. Without an engine they are the stored ones.
    """
    if choice is None:
        return {key: stored[key] for key in (DTYPE, THREADS) if key in stored}
    facts = {DTYPE: choice.dtype}
    if begun and THREADS in stored:
        asked = choice.config.threads if choice.on_cpu else None
        facts[THREADS] = stored[THREADS] if asked is None else str(asked)
    elif not begun and choice.on_cpu:
        facts[THREADS] = str(choice.threads_of_new_study)
    return facts


def without_new_facts(
    facts: Mapping[str, str], stored: Mapping[str, str], begun: bool
) -> dict[str, str]:
    """Return the facts without the end tokens that a study which has `begun` does not store."""
    if not begun or not stored or END_TOKENS in stored or END_TOKENS not in facts:
        return dict(facts)
    log.warning(
        "the study began when generation_config.json was not read: its answers still end at the "
        "end tokens of config.json alone; a study with a new study.name also ends them at %s",
        facts[END_TOKENS],
    )
    return {key: text for key, text in facts.items() if key != END_TOKENS}


def as_stored(choice: "EngineChoice", study: optuna.Study) -> "EngineChoice":
    """The choice with the threads and end tokens that the study has stored. This process computes
    with as many threads from now on.
    """
    stored = stored_fingerprint(study)
    threads = int(stored[THREADS]) if THREADS in stored else choice.config.threads
    use_threads(threads if choice.on_cpu else None)
    return replace(
        choice,
        threads=threads if choice.on_cpu else None,
        generation_ends=END_TOKENS in stored,
    )


def use_stored_threads(study: optuna.Study) -> None:
    """Merge in this process with the threads of the study's trials, so that the bits agree."""
    threads = stored_fingerprint(study).get(THREADS)
    use_threads(None if threads is None else int(threads))


def use_threads(count: int | None) -> None:
    """Compute with so many CPU threads in this process; None changes nothing."""
    if count is not None:
        torch.set_num_threads(count)
