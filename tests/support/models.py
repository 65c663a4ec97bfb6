"""Words of tiny models, points of a search space, and merges by mergekit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from study.search.genome import MergeGenome

WORDS = ["<s>", "</s>", *"abcdefghij", *"0123456789", *(f"{i}," for i in range(16))]


MakeModel = Callable[..., Path]


def point(genome: MergeGenome, seed: int) -> dict[str, float]:
    """Return a random point of the search space."""
    shares = torch.rand(len(genome.space), generator=torch.Generator().manual_seed(seed)).tolist()
    return {
        name: r.low + share * (r.high - r.low)
        for (name, r), share in zip(genome.space.items(), shares, strict=True)
    }


def by_mergekit(config: dict[str, Any], out: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a merge by mergekit."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    configuration = MergeConfiguration.model_validate(config)
    quiet = MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False, **options)
    run_merge(configuration, str(out), quiet)
    return load_file(out / "model.safetensors")
