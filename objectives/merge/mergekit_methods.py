"""Merge methods that mergekit computes, called through its API for one tensor at a time.

Some of these methods use random numbers. torch's own numbers depend on the device, so those of
torch.bernoulli and torch.randint, the two functions that mergekit 0.1.5 calls, are replaced by the
generator of masks.py, keyed by (seed, tensor, number of the draw). A merge that is scored on a GPU
therefore equals the one exported on a CPU, up to rounding.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mergekit.merge_methods import merge_tensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from objectives.errors import MergeError
from objectives.models.layout import TensorInfo

from . import masks
from .catalogue import METHODS
from .recipe import MergeRecipe

Draw = Callable[[str, torch.Size, torch.device], Tensor]
"""A function of a name, a shape and a device that returns a tensor of 16-bit random draws, int32,
of this shape on this device. The name identifies the draws."""


def merge(
    recipe: MergeRecipe, info: TensorInfo, by_model: Mapping[str, Tensor], draw: Draw
) -> Tensor:
    """Return one merged tensor, float32. Raises MergeError.

    `by_model` maps the labels of the recipe's models and of its base to their tensors.
    """
    models = list(recipe.models)
    if recipe.base is not None and recipe.base not in models:
        models.append(recipe.base)
    tensors = [by_model[model].float() for model in models]
    try:
        with _replace_random_numbers(recipe.mask_seed, info.name, draw, tensors[0].device):
            merged: Tensor = merge_tensors(
                tensors,
                recipe.method,
                parameters=parameters(recipe, info),
                ids=models,
                base_index=None if recipe.base is None else models.index(recipe.base),
                name=info.name,
            )
    except (ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
            return tensors[0]  # multislerp fails if all tensors are equal
        reason = str(error).strip().split("\n")[0]
        raise MergeError(f"{recipe.method} cannot merge {info.name}: {reason}") from None
    return merged


def parameters(recipe: MergeRecipe, info: TensorInfo) -> dict[str, Any]:
    """Return the parameters with which mergekit merges one tensor, by mergekit's names."""
    method = METHODS[recipe.method]
    values: dict[str, Any] = dict(recipe.options)
    for name, numbers in recipe.values_at(info.name, info.layer).items():
        values[name] = dict(zip(recipe.models, numbers, strict=True))
    values |= recipe.shared_at(info.name, info.layer)
    if method.normalize is not None:
        values["normalize"] = recipe.normalize
    if method.has_lambda:
        values |= {"lambda": recipe.scale, "int8_mask": True}
    return values


_SORTS = {torch.sort, torch.argsort, Tensor.sort, Tensor.argsort}


class Draws(TorchFunctionMode):
    """A context in which torch.bernoulli and torch.randint take their numbers from `draw`.

    Within the context sorting is stable, so that elements of equal magnitude keep their order on
    every device.
    """

    def __init__(self, draw: Draw) -> None:
        """`draw` gets the names `draw 1`, `draw 2` and so on; randint calls it three times."""
        super().__init__()
        self._draw, self._count = draw, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is torch.bernoulli and len(args) == 1 and not options:
            return self._bernoulli(args[0])
        if func is torch.randint and len(args) == 2 and set(options) <= {"device"}:
            return self._randint(args[0], args[1], torch.device(options.get("device", "cpu")))
        if func in _SORTS:
            options = {"stable": True, **options}
        return func(*args, **options)

    def _bernoulli(self, probabilities: Tensor) -> Tensor:
        drawn = self._next(probabilities.shape, probabilities.device)
        kept: Tensor = (drawn + 0.5) / 2**masks.DRAW_BITS < probabilities
        return kept.to(probabilities.dtype)

    def _randint(self, high: int, shape: Any, device: torch.device) -> Tensor:
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        for _ in range(3):
            whole = whole << masks.DRAW_BITS | self._next(whole.shape, device)
        return whole % high

    def _next(self, shape: torch.Size, device: torch.device) -> Tensor:
        self._count += 1
        return self._draw(f"draw {self._count}", shape, device)


@contextmanager
def _replace_random_numbers(
    seed: int, tensor: str, draw: Draw, device: torch.device
) -> Iterator[None]:
    """Take the random numbers of torch.bernoulli and torch.randint from `draw` in this context.

    Other functions use torch's own generators, whose numbers depend on the device. The generators
    are seeded by `seed` and the tensor's name, and their states are restored at the end.
    """
    digest = hashlib.blake2b(f"{seed}\0{tensor}".encode(), digest_size=7).digest()
    own, gpus = int.from_bytes(digest, "little"), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), Draws(draw):
        torch.default_generator.manual_seed(own)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(own)
        yield


def work_bytes(method: str, models: int, elements: int) -> int:
    """Return the estimated size in bytes of mergekit's workspace for a tensor of `elements`
    elements; 0 for a method that this project computes."""
    if METHODS[method].native:
        return 0
    return math.ceil(4 * elements * (4 * models + 8))
