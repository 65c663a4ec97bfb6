"""The arithmetic of an estimate: tokens, seconds and generations.

The rates of a GPU are its maker's figures for dense bfloat16 and for memory. The shares of these
rates that a study reaches were measured on NVIDIA H100s (benchmarks/results, 2026-11-24).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from objectives.engines.engine import Prompt
from objectives.engines.memory import Sizes
from study.search.sampler import default_population

ENOUGH_GENERATIONS = 40
"""Generations below which an estimate warns."""
_SCORING_SHARE = 0.56
"""Share of the matrix rate that scoring reaches: 553 to 562 of 989 TFLOP/s."""
_SHARED_MODEL = 0.8
"""Efficiency of GPUs that share a model: two of them scored 1.6 times as fast as one."""
_MERGE_TIMES = 2.6
"""Time of merging and loading, relative to the time of moving the bytes at the memory rate. A merge
of the task-arithmetic family took 0.077 to 0.080 s for 101 GB."""
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
"""The same for methods that are not limited by the memory rate."""
_STEP_PASSES = 4
"""Forward passes that a step's passes take as long as: forward, recomputed forward, and backward,
which takes as long as two."""
FUSED_DERIVATIVES = 5
"""Merges that the derivatives of a fused merge take as long as: 0.187 s beside 0.038 s at 7B on an
H100 (benchmarks/results/gradient.md, 2026-11-26)."""
_LINK_SHARE = 0.9
"""Share of the rate of the link to the host that copying reaches."""
START_SECONDS = 60.0
"""Seconds from the command to the first score."""
_OTHER_SECONDS = 0.05
"""Seconds of a trial for proposing and storing it."""
_BLOCK = 16
"""Tokens of a block; vLLM shares whole blocks between prompts."""


@dataclass(frozen=True)
class Card:
    """A GPU: its memory in bytes, its rate in FLOP/s of dense bfloat16, and the bandwidths of its
    memory and of its link to the host in bytes/s."""

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
    """The tokens of one task in one trial."""

    questions: int
    shared: int
    """Tokens of the common start of all prompts, in whole blocks; computed once."""
    own: int
    """The other tokens of all prompts."""
    decoded: int
    """Tokens of the answers that are fed back, at most: all but the last of each answer."""

    @property
    def computed(self) -> int:
        """Tokens that a model computes."""
        return self.shared + self.own + self.decoded

    def sampled(self, share: float) -> "Tokens":
        """Return the tokens if a trial is asked this share of the questions, measured in tokens."""
        asked, own = round(self.questions * share), round(self.own * share)
        return Tokens(asked, self.shared, own, round(self.decoded * share))


def tokens_of(prompts: Sequence[Prompt]) -> Tokens:
    """Return the tokens of a task's prompts."""
    shared = min((p.shared for p in prompts), default=0) // _BLOCK * _BLOCK
    own = sum(len(p.tokens) - shared for p in prompts)
    return Tokens(len(prompts), shared, own, sum(p.max_tokens - 1 for p in prompts))


def scoring_seconds(weights: int, tokens: int, card: Card, gpus: int = 1) -> float:
    """Return the seconds of computing the tokens: two operations for each weight and token (Kaplan
    et al. 2020, section 2.1), without attention."""
    efficiency = 1 if gpus == 1 else _SHARED_MODEL
    return 2 * weights * tokens / (gpus * efficiency * card.flops * _SCORING_SHARE)


def merge_seconds(sizes: Sizes, place: str, card: Card, method: str) -> float:
    """Return the seconds of merging and loading: every source is read once, the merge is written,
    and each GPU copies its share into the model."""
    sources = sum(sizes.sources.values())
    times = _MERGE_TIMES_OF.get(method, _MERGE_TIMES)
    on_card = times * (sources + (sizes.gpus + 2) * sizes.model) / card.bandwidth
    return on_card if place == "gpu" else max(on_card, sources / (card.link * _LINK_SHARE))


def step_seconds(merge: float, scoring: float, merges: float) -> float:
    """Return the seconds of a step of an ascent: a merge, `scoring` for the forward pass, three
    times as long for the backward pass with recomputed activations, and the derivatives of the
    merge, which take as long as `merges` merges."""
    return (1 + merges) * merge + _STEP_PASSES * scoring + _OTHER_SECONDS


def trial_seconds(merge: float, scoring: float) -> float:
    """Return the seconds of a trial."""
    return merge + scoring + _OTHER_SECONDS


def seconds_of(rounds: Sequence[tuple[int, float]], workers: int) -> float:
    """Return the seconds of all rounds; a round is a number of merges and the seconds of each, and
    ends when its last merge is finished."""
    return sum(math.ceil(count / workers) * each for count, each in rounds)


def by_generation(trials: int, population: int) -> list[int]:
    """Return the number of trials in each generation; generations run one after the other."""
    return [population] * (trials // population) + [trials % population]


def generations(trials: int, population: int) -> int:
    """Return the number of whole generations."""
    return trials // population


def coarser(
    layers: int, granularity: int, per_block: int, trials: int, population: int | None
) -> tuple[int, int] | None:
    """Return the smallest larger layer_granularity that has enough generations, and its number of
    parameters; None if there is none."""
    for wider in range(granularity + 1, layers + 1):
        if layers % wider:
            continue
        parameters = layers // wider * per_block
        size = population or default_population(parameters, trials)
        if generations(trials, size) >= ENOUGH_GENERATIONS:
            return wider, parameters
    return None
