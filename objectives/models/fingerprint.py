"""Fingerprints of sources: digests of their config, their vocabulary and their tensors.

A digest covers the name, the dtype, the shape and samples of the values of each tensor.
"""

import hashlib
import json

import torch
from torch import Tensor

from objectives.files.samples import windows

from .sources import Sources

_WINDOWS = 16


def fingerprints(sources: Sources) -> dict[str, str]:
    """Return the digest of each source, by label.

    Tensors of up to 1 MiB are covered completely. Of a larger tensor about sixteen windows of 4 KiB
    are covered, so that the digest of a model of many gigabytes takes a moment. A change outside
    the windows is not detected; retraining changes nearly all values, and therefore the digest.
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
    return [data[part].numpy().tobytes() for part in windows(data.numel(), _WINDOWS)]
