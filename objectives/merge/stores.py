"""Where sources reside while a study runs, and how their tensors get to the merging device.

For one tensor of the merge after another, a store yields the tensors of several models on the
device, contiguous and in the dtype of their files. They are valid until the next request.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from objectives.errors import SourceError
from objectives.models.layout import TensorInfo
from objectives.models.sources import Sources

Request = tuple[TensorInfo, Sequence[str]]
"""A tensor and the labels of the models from which it is needed."""
Loaded = tuple[TensorInfo, Mapping[str, Tensor]]
"""A tensor, and the models' tensors on the device by label."""

_SETS = 2
_ALIGNMENT = 512


class Store(Protocol):
    """Yields tensors of several models on a device."""

    device: torch.device

    def walk(self, requests: Iterable[Request]) -> Iterator[Loaded]:
        """Yield the requested tensors in their order."""

    def close(self) -> None:
        """Release the memory."""


class Files:
    """Reads tensors from their files through the page cache, onto a CPU; keeps none in memory."""

    def __init__(self, sources: Sources) -> None:
        self.device = torch.device("cpu")
        self._sources = sources

    def walk(self, requests: Iterable[Request]) -> Iterator[Loaded]:
        for info, labels in requests:
            yield info, {label: self._sources.read(label, info).contiguous() for label in labels}

    def close(self) -> None:
        pass


class Resident:
    """Keeps every tensor of every model on the device."""

    def __init__(self, sources: Sources, device: torch.device) -> None:
        """Load all tensors. Raises SourceError if one is not finite."""
        self.device = device
        self._tensors: dict[tuple[str, str], Tensor] = {}
        finite: list[Tensor] = []
        room = max(largest(sources, label) for label in sources.checkpoints)
        stages = [torch.empty(room, dtype=torch.uint8, pin_memory=True) for _ in range(_SETS)]
        copied = [torch.cuda.Event() for _ in stages]
        for label, info in itertools.product(sources.checkpoints, sources.layout):
            turn = len(finite) % _SETS
            copied[turn].synchronize()  # one tensor is read from its file while another is copied
            read = sources.read(label, info)
            tensor = _as(stages[turn], read.dtype, read.shape).copy_(read)
            tensor = tensor.to(device, non_blocking=True)
            copied[turn].record(torch.cuda.current_stream(device))
            self._tensors[label, info.name] = tensor
            finite.append(torch.isfinite(tensor).all())
        for (label, name), is_finite in zip(
            self._tensors, torch.stack(finite).tolist(), strict=True
        ):
            if not is_finite:
                raise _not_finite(label, name)

    def walk(self, requests: Iterable[Request]) -> Iterator[Loaded]:
        for info, labels in requests:
            yield info, {label: self._tensors[label, info.name] for label in labels}

    def close(self) -> None:
        self._tensors.clear()


class Streamed:
    """Copies tensors to the device while earlier ones are merged, through two sets of buffers.

    With `pinned` they are kept in page-locked host memory; otherwise they are read from the files,
    through the page cache, for each merge.
    """

    def __init__(self, sources: Sources, device: torch.device, pinned: bool) -> None:
        """Allocate the buffers and check all tensors.

        Raises SourceError if a tensor is not finite or if memory cannot be page-locked.
        """
        self.device, self._sources = device, sources
        room = {label: largest(sources, label) for label in sources.checkpoints}
        self._buffers = [_Buffers(room, device, staged=not pinned) for _ in range(_SETS)]
        self._side = torch.cuda.Stream(device)
        self._side.wait_stream(torch.cuda.current_stream(device))  # which may still use the memory
        self._reader = ThreadPoolExecutor(1, "sources")
        self._pinned = _Pinned(sources) if pinned else None
        self._turn = 0
        labels = list(sources.checkpoints)
        for info, by_model in self.walk((info, labels) for info in sources.layout):
            for label, tensor in by_model.items():
                check_finite(label, info.name, tensor)

    def walk(self, requests: Iterable[Request]) -> Iterator[Loaded]:
        ahead: list[tuple[Future[dict[str, Tensor]], TensorInfo, _Buffers]] = []
        queue = iter(requests)
        while True:
            while len(ahead) < _SETS and (item := next(queue, None)) is not None:
                buffers = self._buffers[self._turn % _SETS]
                self._turn += 1
                ahead.append((self._reader.submit(self._load, buffers, *item), item[0], buffers))
            if not ahead:
                return
            loading, info, buffers = ahead.pop(0)
            by_model = loading.result()
            buffers.arrived.wait(torch.cuda.current_stream(self.device))
            try:
                yield info, by_model
            finally:
                buffers.done.record(torch.cuda.current_stream(self.device))

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        torch.cuda.synchronize(self.device)
        if self._pinned is not None:
            for memory in self._pinned.memories:
                _check(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))
            self._pinned = None
        self._buffers.clear()

    def _load(
        self, buffers: "_Buffers", info: TensorInfo, labels: Sequence[str]
    ) -> dict[str, Tensor]:
        """Queue the copies of one tensor of several models into a set of buffers."""
        by_model = {}
        with torch.cuda.stream(self._side):
            buffers.done.wait(self._side)
            if buffers.staging:
                buffers.arrived.synchronize()
            for label in labels:
                if self._pinned is not None:
                    tensor = self._pinned.tensors[label, info.name]
                else:
                    read = self._sources.read(label, info)
                    tensor = _as(buffers.staging[label], read.dtype, read.shape)
                    tensor.copy_(read)
                by_model[label] = _as(buffers.buffers[label], tensor.dtype, tensor.shape)
                by_model[label].copy_(tensor, non_blocking=True)
            buffers.arrived.record(self._side)
        return by_model


class _Buffers:
    """Device buffers for one tensor of every model, and page-locked host buffers if `staged`."""

    def __init__(self, room: Mapping[str, int], device: torch.device, staged: bool) -> None:
        self.buffers = {
            label: torch.empty(size, dtype=torch.uint8, device=device)
            for label, size in room.items()
        }
        self.staging = {
            label: torch.empty(size, dtype=torch.uint8, pin_memory=True)
            for label, size in (room.items() if staged else ())
        }
        self.arrived, self.done = torch.cuda.Event(), torch.cuda.Event()


class _Pinned:
    """All tensors of each model in one page-locked block of host memory."""

    def __init__(self, sources: Sources) -> None:
        self.memories: list[Tensor] = []
        self.tensors: dict[tuple[str, str], Tensor] = {}
        for label in sources.checkpoints:
            offsets, total = {}, 0
            for info in sources.layout:
                offsets[info.name] = total
                total += -(-_size(sources, label, info) // _ALIGNMENT) * _ALIGNMENT
            memory = torch.empty(total, dtype=torch.uint8)
            self.memories.append(memory)
            for info in sources.layout:
                tensor = _as(memory[offsets[info.name] :], sources.dtype(label, info), info.shape)
                tensor.copy_(sources.read(label, info))
                self.tensors[label, info.name] = tensor
            _check(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), total, 0))


def check_finite(label: str, name: str, tensor: Tensor) -> None:
    """Raise SourceError if a tensor is not finite."""
    if not torch.isfinite(tensor).all():
        raise _not_finite(label, name)


def _not_finite(label: str, name: str) -> SourceError:
    return SourceError(f"{label}: tensor {name} contains NaN or infinity")


def largest(sources: Sources, label: str) -> int:
    """Return the size in bytes of a model's largest tensor."""
    return max(_size(sources, label, info) for info in sources.layout)


def size(sources: Sources, label: str) -> int:
    """Return the size in bytes of a model's tensors that the merge needs."""
    return sum(_size(sources, label, info) for info in sources.layout)


def _size(sources: Sources, label: str, info: TensorInfo) -> int:
    return math.prod(info.shape) * sources.dtype(label, info).itemsize


def _as(memory: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return the beginning of a block of memory as a tensor."""
    return memory[: math.prod(shape) * dtype.itemsize].view(dtype).view(tuple(shape))


def _check(code: object) -> None:
    if int(code) != 0:  # type: ignore[call-overload]
        raise SourceError(f"host memory cannot be page-locked (CUDA error {code})")
