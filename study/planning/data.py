"""The data of an estimate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .cost import Tokens

GB = 1e9


@dataclass(frozen=True)
class Hardware:
    """The machine of an estimate; `host_memory` is the bytes that all its workers share."""

    gpu: str | None
    """A name of `study.planning.cost.CARDS`, or a memory size such as 24GB; None is the GPU of this
    machine, or an h100 if it has none."""
    host_memory: float
    workers: int


@dataclass(frozen=True)
class SearchSize:
    """The numbers of the search; the fields are keys of `study.plan --json`."""

    study: str
    parameters: int
    population: int
    trials: int
    baselines: int
    generations: int
    held_out_questions: int
    detectable_lead: float | None
    """See study/verdict/power.py."""
    warnings: list[str]


@dataclass(frozen=True)
class TimeEstimate:
    """The expected time of a study that fits its hardware, in seconds."""

    sources: str
    """The place of the source models: gpu, pinned or file."""
    tokens: Mapping[str, Tokens]
    """The tokens of a search trial by task."""
    arithmetic: list[str]
    """The computation of the seconds of a trial, in lines."""
    search_merges: int
    """Final merges that are asked all search questions when the search is over."""
    held_out_merges: int
    """Contenders that are asked all held-out questions."""
    seconds_a_trial: float
    seconds_in_the_end: float
    """The time after the search: final merges and held-out questions."""
    seconds: int
    """The time of the whole study."""
    questions: int | None = None
    """Questions that the steps and checkpoints of a search by gradient ask, at most; a gradient
    counts as three. None for CMA-ES."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as part of `study.plan --json`."""
        return {
            "sources": self.sources,
            "tokens": {name: asdict(tokens) for name, tokens in self.tokens.items()},
            "arithmetic": list(self.arithmetic),
            "in_the_end": {
                "search questions": self.search_merges,
                "held-out questions": self.held_out_merges,
            },
            "seconds_a_trial": self.seconds_a_trial,
            "seconds_in_the_end": self.seconds_in_the_end,
            "seconds": self.seconds,
            **({} if self.questions is None else {"gradient_questions": self.questions}),
        }


@dataclass(frozen=True)
class Estimate:
    """What a study needs on given hardware."""

    search: SearchSize
    hardware: Hardware
    gpu: str
    """The GPU that the estimate is for."""
    is_assumed: bool
    """Whether the machine has no GPU and none was named."""
    gpus: int
    """The GPUs of all workers."""
    memory: str
    """A table of the memory on the GPU and on the host, in lines."""
    time: TimeEstimate | None
    """None if the study does not fit the hardware."""

    @property
    def warnings(self) -> list[str]:
        return [
            *self.search.warnings,
            *(
                [
                    f"this machine has no GPU: memory and time are those of an {self.gpu} (see "
                    "--gpu); on a CPU, the progress of a run shows the time left after some trials"
                ]
                if self.is_assumed
                else []
            ),
            *([] if self.time else ["the study does not fit this hardware"]),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `study.plan --json`; its keys are a public format."""
        return {
            **asdict(self.search),
            "warnings": self.warnings,
            "gpu": self.gpu,
            "workers": self.hardware.workers,
            "gpus": self.gpus,
            "memory": self.memory,
            **({"sources": None} if self.time is None else self.time.to_dict()),
        }
