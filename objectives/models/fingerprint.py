"""What identifies a source: its config, its vocabulary, its shapes and samples of its bytes."""

import hashlib
import json

import torch
from torch import Tensor

from .sources import Sources

_WHOLE = 1 << 20
_WINDOW = 4096
_WINDOWS = 16


def fingerprints(sources: Sources) -> dict[str, str]:
    """A digest for each model label.

    Tensors up to 1 MiB count whole, of larger ones sixteen windows of 4 KiB, so a model of many
    gigabytes takes a moment and any retraining shows.
    """
    return {label: _digest(sources, label) for label in sources.checkpoints}


def _digest(sources: Sources, label: str) -> str:
    checkpoint = sources.checkpoints[label]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([checkpoint.config, sources.rows_of(label)], sort_keys=True).encode())
    for info in sources.layout:
        name = checkpoint.stored_name(info.weight)
        assert name is not None
        header = [name, checkpoint.dtype(name), checkpoint.shape(name)]
        digest.update(json.dumps(header).encode())
        for part in _samples(checkpoint.read(name)):
            digest.update(part)
    return digest.hexdigest()


def _samples(tensor: Tensor) -> list[bytes]:
    data = tensor.contiguous().flatten().view(torch.uint8)
    if data.numel() <= _WHOLE:
        return [data.numpy().tobytes()]
    step = (data.numel() - _WINDOW) // (_WINDOWS - 1)
    starts = range(0, data.numel() - _WINDOW + 1, step)
    return [data[start : start + _WINDOW].numpy().tobytes() for start in starts]
