"""The merge methods that are not ours: called through mergekit's own API, a tensor at a time.

Some of them draw at random. Their draws come from the same generator as our masks, keyed by
(seed, tensor, how many draws came before), and not from torch's, whose numbers depend on the
device: a merge that is scored on a GPU is the one that is exported on a CPU, but for the order in
which sums are added.
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
"""The 16-bit draws with this name, int32."""


def merge(recipe: MergeRecipe, info: TensorInfo, held: Mapping[str, Tensor], draw: Draw) -> Tensor:
    """One tensor of the merge, float32. `held` has every model's. Raises MergeError."""
    models = list(recipe.models)
    if recipe.base is not None and recipe.base not in models:
        models.append(recipe.base)
    tensors = [held[model].float() for model in models]
    try:
        with _drawing(recipe.mask_seed, info.name, draw, tensors[0].device):
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
            return tensors[0]  # models that agree leave multislerp nothing to go between
        reason = str(error).strip().split("\n")[0]
        raise MergeError(f"{recipe.method} cannot merge {info.name}: {reason}") from None
    return merged


def parameters(recipe: MergeRecipe, info: TensorInfo) -> dict[str, Any]:
    """mergekit's parameters for one tensor."""
    method = METHODS[recipe.method]
    found: dict[str, Any] = dict(recipe.options)
    for name, numbers in recipe.numbers_at(info.name, info.layer).items():
        found[name] = dict(zip(recipe.models, numbers, strict=True))
    found |= recipe.shared_at(info.name, info.layer)
    if method.normalize is not None:
        found["normalize"] = recipe.normalize
    if method.has_lambda:
        found |= {"lambda": recipe.scale, "int8_mask": True}
    return found


_SORTS = {torch.sort, torch.argsort, Tensor.sort, Tensor.argsort}


class Draws(TorchFunctionMode):
    """While it is entered, what torch draws at random comes from numbered draws, and elements of
    one magnitude keep their order when they are sorted, on every device."""

    def __init__(self, draw: Callable[[str, torch.Size, torch.device], Tensor]) -> None:
        super().__init__()
        self._draw, self._count = draw, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.bernoulli and len(args) == 1 and not given:
            return self._bernoulli(args[0])
        if func is torch.randint and len(args) == 2 and set(given) <= {"device"}:
            return self._randint(args[0], args[1], torch.device(given.get("device", "cpu")))
        if func in _SORTS:
            given = {"stable": True, **given}
        return func(*args, **given)

    def _bernoulli(self, chances: Tensor) -> Tensor:
        drawn = self._next(chances.shape, chances.device)
        kept: Tensor = (drawn + 0.5) / 2**masks.DRAW_BITS < chances
        return kept.to(chances.dtype)

    def _randint(self, high: int, shape: Any, device: torch.device) -> Tensor:
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        for _ in range(3):
            whole = whole << masks.DRAW_BITS | self._next(whole.shape, device)
        return whole % high

    def _next(self, shape: torch.Size, device: torch.device) -> Tensor:
        self._count += 1
        return self._draw(f"draw {self._count}", shape, device)


@contextmanager
def _drawing(seed: int, tensor: str, draw: Draw, device: torch.device) -> Iterator[None]:
    """Draws of the tensor's own. Whatever else may draw finds torch's generators seeded by it,
    and leaves them as they were."""
    digest = hashlib.blake2b(f"{seed}\0{tensor}".encode(), digest_size=7).digest()
    own, gpus = int.from_bytes(digest, "little"), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), Draws(draw):
        torch.default_generator.manual_seed(own)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(own)
        yield


def work_bytes(method: str, models: int, elements: int) -> int:
    """About what mergekit needs beside the sources, for a tensor of so many elements."""
    if METHODS[method].fused:
        return 0
    return math.ceil(4 * elements * (4 * models + 8))
