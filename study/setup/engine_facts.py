"""The settings of the engine that a study stores, so that all its trials are scored alike.

`engine.dtype` is the dtype of the computation. `engine.threads` is the number of CPU threads, on
which the rounding of floating-point sums depends. `engine.end_tokens` are the tokens that end an
answer, if generation_config.json and config.json differ in them.

A study that was created before one of these settings existed does not store it. It continues
with the threads of each run, and with the end tokens of config.json alone.
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
    """Return the end tokens, or nothing if config.json alone has the same ones."""
    ends = sorted(sources.ends.all)
    if ends == sorted(sources.end_tokens(use_generation_config=False).all):
        return {}
    return {END_TOKENS: ", ".join(map(str, ends)) or "none"}


def engine_facts(
    choice: "EngineChoice | None", stored: Mapping[str, str], begun: bool
) -> dict[str, str]:
    """Return the dtype and threads to compare with the `stored` fingerprint, or to store if the
    study has not `begun`. Without an engine, return the stored ones.
    """
    if choice is None:
        return {key: stored[key] for key in (DTYPE, THREADS) if key in stored}
    facts = {DTYPE: choice.dtype}
    if begun and THREADS in stored:
        threads = choice.config.threads if choice.on_cpu else None
        facts[THREADS] = stored[THREADS] if threads is None else str(threads)
    elif not begun and choice.on_cpu:
        facts[THREADS] = str(choice.threads_of_new_study)
    return facts


def with_stored_facts(choice: "EngineChoice", study: optuna.Study) -> "EngineChoice":
    """Return the choice with the stored threads and end tokens, and set the number of threads of
    this process.
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
    """Set the number of CPU threads to the study's, so that its merges are bit-identical."""
    threads = stored_fingerprint(study).get(THREADS)
    use_threads(None if threads is None else int(threads))


def use_threads(count: int | None) -> None:
    """Set the number of CPU threads of this process; None leaves it unchanged."""
    if count is not None:
        torch.set_num_threads(count)
