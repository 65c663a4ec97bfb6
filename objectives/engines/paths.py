"""The engine of paths: a transformers model whose layers are taken from several models.

All layers of all models stay on the device. A path refers to them: only the two weights of a layer
that a scale changes are copied, and each hop has keys and values of its own.
"""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from objectives.errors import EngineError, SourceError
from objectives.merge.path import check_path, is_scaled, path_config, path_tensors, scaled
from objectives.merge.recipe import Hop, PathRecipe, Recipe, as_path
from objectives.merge.stores import Files, Store
from objectives.models.sources import Sources
from objectives.models.special_tokens import EndTokens

from .transformers import TransformersEngine, out_of_memory_as_engine_error


class PathEngine(TransformersEngine):
    """Holds the layers of all models; `load` puts a path together."""

    def __init__(
        self,
        sources: Sources,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int = 4096,
        ends: EndTokens | None = None,
        store: Store | None = None,
        merge_dtype: str = "bfloat16",
    ) -> None:
        """Load all models. See TransformersEngine for the other arguments.

        `merge_dtype` is the dtype of all recipes: tensors are rounded to it, as an export does,
        and then converted to `dtype`, in which the model computes.
        """
        self._store = store or Files(sources)
        super().__init__(sources, device, dtype, batch_tokens, ends, self._store)
        self._merge_dtype = merge_dtype
        self._num_layers = sources.num_layers
        first = next(info.name for info in sources.layout if info.layer == 0)
        self._list = first.partition(".0.")[0]
        """The name of the list of layers, such as `model.layers`."""
        own: list[nn.Module] = list(self._model.get_submodule(self._list))
        self._library = dict.fromkeys(list(sources.checkpoints)[:1], own)
        for label in sources.checkpoints:
            if label not in self._library:
                self._library[label] = copy.deepcopy(own)
        self._ends_of: dict[str, dict[str, Tensor]] = {}
        self._unrounded: dict[tuple[str, str], Tensor] = {}
        """The tensors that a scale changes, by model and name, if the engine's copy of them is
        rounded."""
        read = {info.name for info in sources.layout}
        if missing := set(self._parameters) - read:
            raise EngineError(
                f"the models lack {len(missing)} tensors; the first is {min(missing)}"
            )
        for label in sources.checkpoints:
            self._read(label)

    def load(self, recipe: Recipe) -> None:
        """Put the path together. Raises EngineError, also for a merge of several models."""
        path = as_path(recipe)
        if path is None:
            raise EngineError("an engine of paths loads no merge of several models")
        if path.dtype != self._merge_dtype:
            raise EngineError(f"the path is in {path.dtype}, the engine in {self._merge_dtype}")
        try:
            check_path(path, self._sources)
        except SourceError as error:
            raise EngineError(str(error)) from None
        with out_of_memory_as_engine_error(), torch.no_grad():
            self._load_path(path)

    def close(self) -> None:
        self._library.clear()
        self._ends_of.clear()
        super().close()

    def _load_path(self, recipe: PathRecipe) -> None:
        self._prefixes.clear()
        scaled_parts: dict[int, dict[str, Tensor]] = {}
        for target in path_tensors(recipe, self._sources):
            if target.scale == 1.0:
                continue
            position, part = self._split(target.name)
            value = self._unrounded.get((target.model, target.source.name))
            if value is None:
                layers = self._library[target.model]
                value = layers[target.source.layer].get_parameter(part)
            by_part = scaled_parts.setdefault(position, {})
            by_part[part] = scaled(value, target.scale, self._rounding)
        layers = [
            self._hop(hop, position, scaled_parts.get(position, {}))
            for position, hop in enumerate(recipe.hops)
        ]
        self._model.set_submodule(self._list, nn.ModuleList(layers))
        for name, tensor in self._ends_of[recipe.ends].items():
            self._parameters[name].copy_(tensor)
        config = path_config(recipe, self._sources)
        for key in ("num_hidden_layers", "layer_types"):
            if key in config:
                setattr(self._model.config, key, config[key])

    def _hop(self, hop: Hop, position: int, changes: Mapping[str, Tensor]) -> nn.Module:
        """Return a layer that shares its tensors with the library, but for `changes` by name."""
        original = self._library[hop.model][hop.layer]
        tensors = itertools.chain(original.parameters(), original.buffers())
        shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
        shared[id(self._model.config)] = self._model.config
        layer = copy.deepcopy(original, shared)
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", position)  # noqa: B010 - no module declares it
        for name, tensor in changes.items():
            module_name, _, parameter = name.rpartition(".")
            value = tensor.to(device=self._device, dtype=getattr(torch, self._dtype))
            fixed = nn.Parameter(value, requires_grad=False)
            setattr(layer.get_submodule(module_name), parameter, fixed)
        return layer

    def _read(self, label: str) -> None:
        """Read all tensors of a model into its layers in the library, and into `_ends_of`."""
        layers, ends = self._library[label], {}
        walk = self._store.walk((info, [label]) for info in self._sources.layout)
        with torch.no_grad():
            for info, by_model in walk:
                tensor = by_model[label].to(self._rounding)
                if 0 <= info.layer < self._num_layers:
                    _, part = self._split(info.name)
                    live = layers[info.layer].get_parameter(part)
                    live.copy_(tensor)
                    original = by_model[label].to(live.device)
                    if is_scaled(info.name) and not torch.equal(live.to(original.dtype), original):
                        self._unrounded[label, info.name] = original
                else:
                    target = self._parameters[info.name]
                    ends[info.name] = tensor.to(device=target.device, dtype=target.dtype)
        self._ends_of[label] = ends

    def _split(self, name: str) -> tuple[int, str]:
        """Return the layer of a tensor, and its name in the layer."""
        number, _, part = name.removeprefix(f"{self._list}.").partition(".")
        return int(number), part

    @property
    def _rounding(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self._merge_dtype)
        return dtype
