"""What a study will cost on a card: tokens, seconds, generations. Arithmetic only.

Rates are the makers' figures for dense bfloat16 and memory; the shares of them that a study gets
were measured on NVIDIA H100s (benchmarks/results, 2026-11-24).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from objectives.engines.engine import Prompt
from objectives.engines.memory import Sizes
from study.search.sampler import default_population

ENOUGH_GENERATIONS = 40
_SCORING_SHARE = 0.56
"""Of the matrix rate, inside a trial: 553 to 562 of 989 TFLOP/s."""
_TOGETHER = 0.8
"""Of what several GPUs that share a model would do apart: two scored 1.6 times as fast as one."""
_MERGE_TIMES = 2.6
"""As long as the bytes take at the memory rate, inside a trial: a merge of the task-arithmetic
family with its loading took 0.077 to 0.080 s for 101 GB."""
_MERGE_TIMES_OF = {
    "ties": 20,
    "slerp": 11,
    "della": 290,
    "della_linear": 270,
    "breadcrumbs": 91,
    "breadcrumbs_ties": 106,
    "sce": 76,
    "model_stock": 20,
    "nuslerp": 20,
    "multislerp": 39,
    "karcher": 41,
    "ram": 39,
    "ramplus_tl": 54,
    "nearswap": 15,
    "arcee_fusion": 50,
    "passthrough": 4,
}
"""The same for other methods, most of which bring the memory of a GPU nowhere near its rate."""
_LINK_SHARE = 0.9
START_SECONDS = 60.0
"""From the command to the first score."""
_OTHER_SECONDS = 0.05
"""Of a trial: proposing and storing."""
_BLOCK = 16
"""vLLM shares whole blocks of so many tokens."""


@dataclass(frozen=True)
class Card:
    """A GPU: bytes, FLOP/s in dense bfloat16, bytes/s of its memory and of its link to the host."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float


CARDS = {
    card.name: card
    for card in (
        Card("h200", 141e9, 989e12, 4.8e12, 55e9),
        Card("h100", 80e9, 989e12, 3.35e12, 55e9),
        Card("a100", 80e9, 312e12, 2.0e12, 25e9),
        Card("l40s", 48e9, 362e12, 0.86e12, 25e9),
        Card("4090", 24e9, 165e12, 1.0e12, 25e9),
        Card("l4", 24e9, 121e12, 0.30e12, 25e9),
    )
}


@dataclass(frozen=True)
class Tokens:
    """Of one task in one trial."""

    questions: int
    shared: int
    """At the start of every prompt, in whole blocks; computed once."""
    own: int
    """All others of all prompts."""
    decoded: int
    """Answer tokens that are fed back: all but the last of each, at most."""

    @property
    def computed(self) -> int:
        return self.shared + self.own + self.decoded

    def sampled(self, share: float) -> "Tokens":
        """Where a trial is asked this share of the task, by tokens."""
        asked, own = round(self.questions * share), round(self.own * share)
        return Tokens(asked, self.shared, own, round(self.decoded * share))


def tokens_of(prompts: Sequence[Prompt]) -> Tokens:
    """What a task's prompts cost with their common start computed once."""
    shared = min((p.shared for p in prompts), default=0) // _BLOCK * _BLOCK
    own = sum(len(p.tokens) - shared for p in prompts)
    return Tokens(len(prompts), shared, own, sum(p.max_tokens - 1 for p in prompts))


def scoring_seconds(weights: int, tokens: int, card: Card, gpus: int = 1) -> float:
    """Two operations a weight and token (Kaplan et al. 2020, section 2.1), attention apart."""
    together = 1 if gpus == 1 else _TOGETHER
    return 2 * weights * tokens / (gpus * together * card.flops * _SCORING_SHARE)


def merge_seconds(sizes: Sizes, place: str, card: Card, method: str) -> float:
    """Every source read once and the merge written, then a GPU's share copied into the model."""
    sources = sum(sizes.sources.values())
    times = _MERGE_TIMES_OF.get(method, _MERGE_TIMES)
    on_card = times * (sources + (sizes.gpus + 2) * sizes.model) / card.bandwidth
    return on_card if place == "gpu" else max(on_card, sources / (card.link * _LINK_SHARE))


def trial_seconds(merge: float, scoring: float) -> float:
    return merge + scoring + _OTHER_SECONDS


def seconds_of(rounds: Sequence[tuple[int, float]], workers: int) -> float:
    """So many merges of so many seconds each, on so many workers."""
    return sum(math.ceil(count / workers) * each for count, each in rounds)


def by_generation(trials: int, population: int) -> list[int]:
    """How many trials can run at a time: a generation waits for the last of the one before."""
    return [population] * (trials // population) + [trials % population]


def generations(trials: int, population: int) -> int:
    return trials // population


def coarser(
    layers: int, granularity: int, per_block: int, trials: int, population: int | None
) -> tuple[int, int] | None:
    """The finest coarser granularity with enough generations, and its number of parameters."""
    for wider in range(granularity + 1, layers + 1):
        if layers % wider:
            continue
        parameters = layers // wider * per_block
        size = population or default_population(parameters, trials)
        if generations(trials, size) >= ENOUGH_GENERATIONS:
            return wider, parameters
    return None
