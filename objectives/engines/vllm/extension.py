"""The extension of vLLM's worker: it merges a recipe into the live model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.errors import MergeError, WeightError
from objectives.merge.path import merged_path, path_tensors
from objectives.merge.recipe import (
    MergeRecipe,
    PathRecipe,
    Recipe,
    as_path,
    recipe_of_dict,
)
from objectives.merge.stores import Files, Resident, Store, Streamed
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources

from . import internals

internals.keep_weights_as_loaded()


class MergeExtension:
    """Mixed into vLLM's Worker.

    Its methods are called through `collective_rpc`; their names must not exist in Worker.
    """

    device: torch.device
    _stream: MergeStream
    _store: Store
    _max_hops: int | None

    def study_open(
        self,
        folders: Mapping[str, str],
        source_arguments: tuple[str, str, bool, str | None],
        residence: str,
        max_hops: int | None = None,
    ) -> None:
        """Open the sources where they are to reside.

        Also check that the tensor names match the model's.

        `source_arguments` are the arguments of `Sources` after the folders, `residence` is one of
        `cpu`, `gpu`, `pinned` and `file`. The model has `max_hops` layers if it is not None: then
        each recipe is a path, or a copy of a model. Raises WeightError and SourceError.
        """
        sources = Sources({label: Path(path) for label, path in folders.items()}, *source_arguments)
        store: Store
        if residence == "cpu":
            store = Files(sources)
        elif residence == "gpu":
            store = Resident(sources, self.device)
        else:
            store = Streamed(sources, self.device, pinned=residence == "pinned")
        self._store, self._max_hops = store, max_hops
        self._stream = MergeStream(sources, store)
        whole = PathRecipe.whole(sources.reference.label, sources.num_layers)
        path = whole if max_hops is None else whole.padded(max_hops)
        self._check_names({tensor.name for tensor in path_tensors(path, sources)})

    def study_load(self, recipe: Mapping[str, Any]) -> None:
        """Merge into the live model. Raises WeightError, and torch.OutOfMemoryError."""
        seen: set[str] = set()
        model = internals.live_model(self)
        try:
            with torch.inference_mode():
                loaded = model.load_weights(self._recorded(recipe_of_dict(recipe), seen))
        except MergeError as error:
            raise WeightError(str(error)) from None
        except (ValueError, KeyError, AssertionError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise WeightError(
                f"the merge cannot be loaded: {type(error).__name__}: {error}"
            ) from None
        self._check_names(seen)
        parameters = {name for name, _ in model.named_parameters()}
        if loaded is not None and (left := parameters - set(loaded)):
            raise WeightError(
                f"the merge does not overwrite {len(left)} tensors; the first is {min(left)}"
            )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def study_clear(self) -> None:
        """Clear the KV cache after a merge that computed NaN.

        Attention multiplies masked values by zero, and zero times NaN is NaN, so values left
        in the cache would corrupt the answers of every later merge.
        """
        internals.clear_kv_cache(self)

    def _recorded(self, recipe: Recipe, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the merged tensors and add their names to `seen`."""
        for name, tensor in self._tensors(recipe):
            seen.add(name)
            yield name, tensor

    def _tensors(self, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
        if self._max_hops is None:
            assert isinstance(recipe, MergeRecipe)
            return self._stream.tensors(recipe)
        path = as_path(recipe)
        assert path is not None
        return merged_path(path.padded(self._max_hops), self._stream.sources, self._store)

    def _check_names(self, merged: set[str]) -> None:
        """Check that a merge has exactly the model's tensors, because vLLM ignores missing ones."""
        expected = set(internals.checkpoint_names(internals.live_model(self)))
        if missing := expected - merged:
            raise WeightError(
                f"the merge lacks {len(missing)} tensors; the first is {min(missing)}"
            )
        if unexpected := merged - expected:
            raise WeightError(f"the model has no tensor {min(unexpected)}")
