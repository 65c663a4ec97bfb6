"""An extension for vLLM's worker whose merges fail; the recipe's mask seed selects how."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from objectives.engines.vllm.extension import MergeExtension
from objectives.merge.recipe import MergeRecipe

MISSING, RENAMED, RESHAPED, RAISED, EXHAUSTED, HUNG = range(1, 7)


class BrokenExtension(MergeExtension):
    def _recorded(self, recipe: MergeRecipe, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
        tensors = list(super()._recorded(recipe, seen))
        name, tensor = tensors.pop()
        match recipe.mask_seed:
            case 0:
                tensors.append((name, tensor))
            case 1:
                seen.discard(name)
            case 2:
                tensors.append((f"{name}.more", tensor))
            case 3:
                tensors.append((name, tensor[:-1]))
        yield from tensors
        match recipe.mask_seed:
            case 4:
                raise OSError("the disk is gone")
            case 5:
                raise torch.OutOfMemoryError("tried to allocate 20 GiB\nmore lines")
            case 6:
                time.sleep(600)
