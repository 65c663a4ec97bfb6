"""The memory of a study of 7B models."""

from objectives.engines.memory import Sizes

SEVEN_B = 14_483_464_192
MISTRALS = Sizes(
    model=SEVEN_B,
    kv_cache=4_300_000_000,
    activations=2_000_000_000,
    sources=dict.fromkeys(("base", "x", "y", "z"), SEVEN_B),
    buffers=1_048_576_000,
    merged=262_144_000,
)
