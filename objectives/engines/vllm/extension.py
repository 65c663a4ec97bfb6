"""Inside vLLM's worker: recipes in, merged tensors into the live model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.errors import MergeError, WeightError
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Files, Resident, Store, Streamed
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources

try:
    import vllm._custom_ops as _ops

    _ops._supports_onednn = False  # else a CPU build repacks linear layers, which then cannot load
except ImportError:
    pass


class MergeExtension:
    """Mixed into vLLM's Worker: `collective_rpc` calls these names, which no Worker has."""

    device: torch.device
    model_runner: Any
    _stream: MergeStream

    def study_open(
        self, folders: Mapping[str, str], opened: tuple[str, str, bool, str | None], place: str
    ) -> None:
        """Open the sources where they are to live; refuse a model that takes other tensors.

        `opened` is what `Sources` takes beside the folders.
        """
        sources = Sources({label: Path(path) for label, path in folders.items()}, *opened)
        store: Store
        if place == "cpu":
            store = Files(sources)
        elif place == "gpu":
            store = Resident(sources, self.device)
        else:
            store = Streamed(sources, self.device, pinned=place == "pinned")
        self._stream = MergeStream(sources, store)
        self._names = {info.name for info in sources.layout}
        self._compare(self._names)

    def study_load(self, recipe: Mapping[str, Any]) -> None:
        """Merge into the live model. Raises WeightError."""
        seen: set[str] = set()
        try:
            with torch.inference_mode():
                loaded = self._model().load_weights(
                    self._watched(MergeRecipe.from_dict(recipe), seen)
                )
        except MergeError as error:
            raise WeightError(str(error)) from None
        except (ValueError, KeyError, AssertionError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise WeightError(f"the merge does not load: {type(error).__name__}: {error}") from None
        self._compare(seen)
        parameters = {name for name, _ in self._model().named_parameters()}
        if loaded is not None and (left := parameters - set(loaded)):
            raise WeightError(f"the merge leaves {len(left)} tensors, first {min(left)}")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def study_clear(self) -> None:
        """Forget the keys and values of a merge that gave NaN: attention weighs what it masks
        with zero, and zero times NaN would be in the answers of every merge after it.
        """
        caches = list(self.model_runner.kv_caches)
        while caches:
            cache = caches.pop()
            if isinstance(cache, torch.Tensor):
                cache.zero_()
            else:
                caches.extend(cache)

    def _watched(self, recipe: MergeRecipe, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._stream.tensors(recipe):
            seen.add(name)
            yield name, tensor

    def _model(self) -> Any:
        return self.model_runner.get_model()

    def _compare(self, given: set[str]) -> None:
        """vLLM takes a merge that lacks tensors without a word: compare names ourselves."""
        wanted = set(_wanted(self._model()))
        if missing := wanted - given:
            raise WeightError(f"the merge lacks {len(missing)} tensors, first {min(missing)}")
        if strange := given - wanted:
            raise WeightError(f"the model takes no tensor {min(strange)}")


def _wanted(model: Any) -> Iterator[str]:
    """The checkpoint's names of a model's parameters: vLLM stacks some of them into one."""
    packed: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", None) or {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part in packed), None)
        if place is None:
            yield name
            continue
        for own in packed[parts[place]]:
            yield ".".join([*parts[:place], own, *parts[place + 1 :]])
