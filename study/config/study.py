"""The sections and keys of a study file.

The file is a superset of mergekit-evolve's: `genome`, `tasks` and the other top-level keys have the
same meaning; the sections `study`, `search`, `space` and `engine` are additions.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from .foreign_keys import advice, keys_of_sections
from .genome import AnyGenomeConfig, GenomeConfig, PathConfig, SpaceConfig
from .method_rules import range_error
from .search import SearchConfig
from .section import MAX_TOKENS, Integer, Number, Section, name_error
from .task import TaskConfig

MAX_TRIALS = 1_000_000
"""A million trials of one second take 11 days, and each read of a study reads all of them."""
_MAX_POPULATION = 100_000
_MAX_QUESTIONS = 2**31 - 1
_MAX_SECONDS = 1e9
"""30 years: the operating system does not support longer waits."""


class StudySection(Section):
    """The name, the storage and the budget of a study, and the search's start."""

    name: str | None = None
    """None is the file's name. It is the name of a folder too: see `name_error`."""
    storage: str | None = None
    """A database URL; None is SQLite in runs/<name>/study.db in the current folder."""
    trials: Integer = Field(default=1000, ge=1, le=MAX_TRIALS)
    """Number of search trials, up to a million; baselines are not counted."""
    seed: Integer = Field(default=0, ge=0)
    population: Integer | None = Field(default=None, ge=4, le=_MAX_POPULATION)
    """CMA-ES population; None is 4 + floor(3 ln n), or twice that beyond 350 trials."""
    fit_population: bool = False
    """Round the population of a new study up to a multiple of its number of workers."""
    sigma: Number = Field(default=1 / 6, gt=0, le=1)
    """Initial step size, as a share of each parameter's range."""
    start_from: str | None = Field(default=None, min_length=1)
    """An earlier study in the same database with the same parameters, from whose best trials the
    search starts. None starts in the middle of the space."""
    held_out: Number = Field(default=0.25, ge=0, lt=1)
    """Share of the questions that the search never sees."""
    heartbeat_timeout: Number = Field(default=60.0, ge=1, le=_MAX_SECONDS)
    """Seconds without a heartbeat after which a worker on another host is considered dead."""
    outage_limit: Number = Field(default=600.0, ge=0, le=_MAX_SECONDS)
    """Seconds that a run retries an unreachable database."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and (error := name_error(name)):
            raise ValueError(error)
        return name

    @model_validator(mode="before")
    @classmethod
    def _rename_keys(cls, data: Any) -> Any:
        """Accept the name that version 0.1.0 had for `heartbeat_timeout`."""
        if not isinstance(data, dict) or "grace" not in data:
            return data
        if "heartbeat_timeout" in data:
            raise ValueError("grace: is the old name of heartbeat_timeout; keep one of them")
        return {("heartbeat_timeout" if k == "grace" else k): v for k, v in data.items()}

    @model_validator(mode="after")
    def _check_population(self) -> Self:
        if self.fit_population and self.population is not None:
            raise ValueError("fit_population: has no effect, because study.population is set")
        return self


class EngineConfig(Section):
    """The engine that runs the merges."""

    kind: Literal["auto", "vllm", "transformers"] = "auto"
    """auto is vllm if a GPU and vLLM are available, else transformers."""
    device: str | None = None
    """A torch device; None is cuda if a GPU is available, else cpu."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The dtype of the computation; None is bfloat16 on a GPU and float32 on a CPU."""
    threads: Integer | None = Field(default=None, ge=1, le=1024)
    """CPU threads of each worker, stored when the study is created; None is OMP_NUM_THREADS, else
    1. It has no effect on a GPU."""
    batch_tokens: Integer | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Tokens of a batch, including padding; None is 4096 on a CPU, else 8192."""
    sources: Literal["auto", "gpu", "pinned", "file"] = "auto"
    """The location of the sources for a GPU: on the GPU, in page-locked host memory, or in their
    files. auto is the first of them with enough space."""
    tensor_parallel_size: Integer = Field(default=1, ge=1)
    """GPUs that each model is split across; vllm only."""
    eager: bool = True
    """Run vLLM without compilation and CUDA graphs, so that it starts faster."""
    deadline: Number = Field(default=900.0, gt=0, le=_MAX_SECONDS)
    """Seconds that vLLM has for a merge or a round of questions before it is restarted; four times
    as long for its start and for reading the sources."""


class StudyConfig(Section):
    """A study file."""

    genome: AnyGenomeConfig
    tasks: tuple[TaskConfig, ...]
    limit: Integer | None = Field(default=None, ge=1, le=_MAX_QUESTIONS)
    """Maximum number of search questions per task."""
    num_fewshot: Integer | None = Field(default=None, ge=0, le=_MAX_QUESTIONS)
    """Number of examples in a prompt; None is all examples of the template, or the number of a task
    of lm-eval."""
    shuffle: bool = False
    """Select the questions of `limit` by the seed."""
    random_init: bool = False
    """Start the search at a random point instead of the uniform merge."""
    apply_chat_template: bool | None = None
    """Tasks of lm-eval only. None is true if the tokenizer has a template."""
    fewshot_as_multiturn: bool | None = None
    """Tasks of lm-eval with a chat template only: each example is a turn. None is true."""
    study: StudySection = StudySection()
    search: SearchConfig = SearchConfig()
    space: SpaceConfig = SpaceConfig()
    engine: EngineConfig = EngineConfig()
    _folder: Path = PrivateAttr(default=Path())
    _file: Path = PrivateAttr(default=Path("study.yaml"))
    _task_folders: tuple[Path, ...] = PrivateAttr(default=())
    _benchmarks: bool | None = PrivateAttr(default=None)
    _trials: int | None = PrivateAttr(default=None)

    @classmethod
    def unknown_key(cls, key: str, names: list[str]) -> str:
        """Return the message for an unknown top-level key."""
        sections = keys_of_sections(cls.model_fields)
        return advice(key, sections) or super().unknown_key(key, names)

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        if not tasks:
            raise ValueError("at least one task is needed")
        names = [task.name for task in tasks]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{repeated} is listed twice")
        if not any(task.weight for task in tasks):
            raise ValueError("all weights are 0; at least one must differ from 0")
        return tasks

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        native = [task.name for task in self.tasks if task.kind != "lm_eval"]
        for key in ("apply_chat_template", "fewshot_as_multiturn"):
            if getattr(self, key) and native:
                raise ValueError(
                    f"{key}: is not supported by native tasks such as {native[0]}, whose "
                    "template is used without changes"
                )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        earlier, model = self.study.start_from, self.search.start
        if model is not None and (self.random_init or earlier is not None):
            other = "random_init" if self.random_init else "study.start_from"
            raise ValueError(f"search.start: cannot be combined with {other}")
        if self.random_init and earlier is not None:
            raise ValueError("random_init: cannot be combined with study.start_from")
        if earlier is not None and earlier == self.study.name:
            raise ValueError(
                f"study.start_from: {earlier} is the study itself; choose another study.name"
            )
        return self

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        weight, genome = self.space.weight, self.genome
        negative = isinstance(genome, GenomeConfig) and genome.allow_negative_weights
        if weight and weight.low < 0 and not negative:
            raise ValueError(
                "space.weight: a range below 0 needs genome.allow_negative_weights: true"
            )
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if not self.by_layers:
            return self
        unsupported = {
            "search.algorithm: gradient": self.search.algorithm == "gradient",
            "random_init": self.random_init,
            "study.start_from": self.study.start_from is not None,
        }
        unsupported |= {f"space.{name}": name != "scale" for name in self.space.model_fields_set}
        if key := next((key for key, is_set in unsupported.items() if is_set), None):
            raise ValueError(f"{key}: is not supported with genome.kind: layers")
        return self

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if not isinstance(self.genome, GenomeConfig):
            return self
        name = self.genome.merge_method
        for field in sorted(self.space.model_fields_set):
            key = SpaceConfig.model_fields[field].alias or field
            if key in self.genome.parameters:
                raise ValueError(
                    f"space.{key}: cannot be searched, because genome.parameters sets it"
                )
            range_ = self.space.range_of(key)
            if error := range_error(name, key, [range_.low, range_.high] if range_ else []):
                raise ValueError(f"space.{key}: {error}")
        return self

    @property
    def by_layers(self) -> bool:
        """Whether the search is for a path through layers, not for weights."""
        return isinstance(self.genome, PathConfig)

    @property
    def folder(self) -> Path:
        """The file's folder, to which its paths are relative."""
        return self._folder

    @property
    def file(self) -> Path:
        """The file that the config was read from."""
        return self._file

    @property
    def task_folders(self) -> tuple[Path, ...]:
        """The folders with tasks of lm-eval, whose code will run; from the command line."""
        return self._task_folders

    @property
    def benchmarks(self) -> bool | None:
        """Whether a search on common benchmarks is allowed; None skips that check."""
        return self._benchmarks

    def with_file(
        self, file: Path, task_folders: Iterable[Path] = (), benchmarks: bool | None = None
    ) -> Self:
        """Return a copy of the config as if read from `file`."""
        copy = self.model_copy()
        copy._file, copy._folder = file, file.resolve().parent
        copy._task_folders, copy._benchmarks = tuple(task_folders), benchmarks
        return copy

    @model_validator(mode="after")
    def _check_algorithm(self) -> Self:
        by_gradient = self.search.algorithm == "gradient"
        if error := self.search.unsuited_key():
            raise ValueError(error)
        for key in ("population", "fit_population", "sigma"):
            if key in self.study.model_fields_set and by_gradient:
                raise ValueError(f"study.{key}: has no effect with search.algorithm: gradient")
        if by_gradient and self.study.trials < self.search.ascents:
            raise ValueError(
                f"study.trials: {self.study.trials} is less than search.ascents, "
                f"{self.search.ascents}: every ascent takes at least one step"
            )
        if by_gradient and self.engine.kind not in ("auto", "transformers"):
            raise ValueError("engine.kind: search.algorithm: gradient needs transformers")
        if by_gradient and self.engine.tensor_parallel_size > 1:
            raise ValueError("engine.tensor_parallel_size: gradient uses one GPU per worker")
        if self.max_trials < self.study.trials:
            study = self.study.model_copy(update={"trials": self.max_trials})
            object.__setattr__(self, "study", study)
        return self

    @property
    def max_trials(self) -> int:
        """The maximum number of search trials."""
        search = self.search
        return search.steps * search.ascents if search.algorithm == "gradient" else MAX_TRIALS

    @property
    def gradient_applies(self) -> bool:
        """Whether a search by gradient is known to be possible: all tasks have right answers with a
        probability, and the engine can be transformers."""
        kinds = {task.kind for task in self.tasks}
        has_answers = kinds <= {"multiple_choice", "retrieval"}
        return has_answers and self.engine.kind != "vllm" and not self.by_layers

    def with_trials(self, trials: int) -> Self:
        """Return a copy with this number of search trials, or with the maximum number."""
        study = self.study.model_copy(update={"trials": min(trials, self.max_trials)})
        copy = self.model_copy(update={"study": study})
        copy._trials = self._trials or self.study.trials
        return copy

    @property
    def trials_override(self) -> int | None:
        """The number of search trials if it differs from the file's, else None."""
        return None if self._trials in (None, self.study.trials) else self.study.trials

    @property
    def name(self) -> str:
        assert self.study.name is not None
        return self.study.name
