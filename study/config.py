"""What a study file may say, section by section; each key is documented where it stands.

The file is a superset of mergekit-evolve's: `genome`, `tasks` and the options beside them mean
what they mean there; `study`, `space` and `engine` are ours.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from objectives.merge.catalogue import METHODS, Method

from .method_rules import wrong_models, wrong_range, wrong_value
from .section import Bound, Number, Plain, Section, Text, Whole, closest, one_of


class ConfigError(Exception):
    """The configuration cannot be used: names the file, the key, and what would be right."""


class GenomeConfig(Section):
    """What is merged with what, exactly as in mergekit-evolve."""

    models: tuple[Text, ...]
    """Folders relative to the file, or hub ids; `id@revision` pins one."""
    merge_method: str
    base_model: Text | None = None
    layer_granularity: Whole = Field(default=0, ge=0)
    """Layers per block; 0 makes all layers one block."""
    allow_negative_weights: bool = False
    normalize: bool | None = None
    """None takes the method's default: true for ties, dare_ties and linear."""
    filters: tuple[Text, ...] | None = None
    """Texts in tensor names; each gets parameters of its own, the first match wins."""
    smooth: bool = False
    """Interpolate linearly between blocks."""
    tokenizer_source: Text | None = None
    """base, union, or one of the models: whose vocabulary the merge has. None is base."""
    parameters: Mapping[Text, Plain] = {}
    """mergekit's parameters of the method that are set for the whole merge and not searched."""

    @field_validator("merge_method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"unknown method {name}{closest(name, METHODS)}; {one_of(METHODS)}")
        return name

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("a model stands there twice")
        return models

    @property
    def method(self) -> Method:
        return METHODS[self.merge_method]

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.merge_method == "slerp" and (self.smooth or self.filters):
            raise ValueError("merge_method: slerp takes neither smooth nor filters")
        if self.normalize is not None and self.method.normalize is None:
            raise ValueError(f"normalize: {self.merge_method} does not normalize")
        if wrong := wrong_models(self.merge_method, self.models, self.base_model):
            raise ValueError(wrong)
        wrongs = [
            f"parameters.{name}: {reason}"
            for name, value in self.parameters.items()
            if (reason := wrong_value(self.merge_method, name, value))
        ]
        if wrongs:
            raise ValueError("\n".join(wrongs))
        return self

    @model_validator(mode="after")
    def _known_vocabulary(self) -> Self:
        source = self.tokenizer_source
        if source in (None, "base", "union", *self.models, self.base_model):
            return self
        known = dict.fromkeys(["base", "union", *self.models, *filter(None, [self.base_model])])
        if source is not None and source.startswith("model:"):
            raise ValueError(f"tokenizer_source: {source}: write the model without model:")
        raise ValueError(f"tokenizer_source: {source} is none of the models; {one_of(known)}")


class Range(Section):
    """Where a parameter is searched; in the file `[low, high]` or a mapping."""

    low: Bound
    high: Bound
    start: Bound | None = None
    """Where the search begins; None is the middle."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if len(data) != 2:
                raise ValueError("must be [low, high]")
            return {"low": data[0], "high": data[1]}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is outside {self.low:g} to {self.high:g}")
        return self


class SpaceConfig(Section):
    """The bounds of the search. docs/search.md says how the defaults were chosen."""

    weight: Range | None = None
    """None is 0 to 1.4, or -0.4 to 1.4 where negative weights are allowed."""
    density: Range | None = None
    t: Range | None = None
    """slerp's preference for each model: a softmax over the top two; nearswap's distance."""
    lambda_: Range | None = Field(default=None, alias="lambda")
    """Search `lambda` too, one number for the whole merge; None keeps it 1."""
    epsilon: Range | None = None
    gamma: Range | None = None
    select_topk: Range | None = None
    r: Range | None = None
    alpha: Range | None = None
    scale: Range | None = None
    eps: Range | None = None
    tol: Range | None = None

    def given(self, parameter: str) -> Range | None:
        """The range that the file gives a parameter, by mergekit's name."""
        found: Range | None = getattr(self, "lambda_" if parameter == "lambda" else parameter, None)
        return found


class SearchConfig(Section):
    """What a trial of the search is asked and what it is ranked by. docs/search.md has figures."""

    soft: Number = Field(default=0.0, ge=0, le=1)
    """Share of the probability of the right answer in what CMA-ES ranks trials by; the rest is
    the score. The score is reported in any case."""
    questions: Number = Field(default=1.0, gt=0, le=1)
    """Share of the search questions, by their tokens, that a trial is asked: those first whose
    outcome varies between trials."""


class StudySection(Section):
    """The study itself."""

    name: str | None = Field(default=None, min_length=1, pattern=r"^[\w.+-]+$")
    """None takes the file's name."""
    storage: str | None = None
    """A database URL; None is SQLite in runs/<name>/study.db under the current folder."""
    trials: Whole = Field(default=1000, ge=1)
    """Search trials to finish; baselines come on top."""
    seed: Whole = Field(default=0, ge=0)
    population: Whole | None = Field(default=None, ge=4)
    """CMA-ES population; None takes 4 + floor(3 ln n), twice that beyond 350 trials."""
    fit_population: bool = False
    """Round a new study's population up to a multiple of the workers it is started with."""
    sigma: Number = Field(default=1 / 6, gt=0, le=1)
    """First step size, as a share of each parameter's range."""
    held_out: Number = Field(default=0.25, ge=0, lt=1)
    """Share of the questions that the search never sees."""
    grace: Number = Field(default=60.0, ge=1)
    """Seconds of silence after which a worker on another host is taken for dead."""
    outage_limit: Number = Field(default=600.0, ge=0)
    """Seconds that a run waits for a database that is away."""

    @model_validator(mode="after")
    def _population_is_free_to_fit(self) -> Self:
        if self.fit_population and self.population is not None:
            raise ValueError("fit_population: population is given, so there is nothing to fit")
        return self


class EngineConfig(Section):
    """What runs the merges."""

    kind: Literal["auto", "vllm", "transformers"] = "auto"
    """auto is vllm where there are a GPU and vLLM, else transformers."""
    device: str | None = None
    """A torch device; None is cuda where there is one, else cpu."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the model computes in; None is bfloat16 on a GPU and float32 on a CPU."""
    batch_tokens: Whole | None = Field(default=None, ge=1)
    """Tokens of a batch, padding and all; None is 4096 on a CPU, else 16384."""
    sources: Literal["auto", "gpu", "pinned", "file"] = "auto"
    """Where a GPU's sources live: on it, in page-locked host memory, or in their files. auto is
    the first of them with room; vllm only."""
    tensor_parallel_size: Whole = Field(default=1, ge=1)
    """GPUs that share a model; vllm only."""
    eager: bool = True
    """Run vLLM without compilation and CUDA graphs: it starts sooner."""
    deadline: Number = Field(default=900.0, gt=0)
    """Seconds that vLLM has for a merge or a round of questions before it is started anew; its
    start and the reading of the sources may take four times as long."""


class TaskConfig(Section):
    """One task. A bare name is looked up as NAME.yaml beside the file, then among lm-eval's."""

    name: str = Field(min_length=1)
    weight: Number = 1.0
    """Share in the objective; a negative one minimises the task's score."""
    metric: Text = "acc,none"
    """lm-eval's tasks: a metric and the filter it stands behind. Native ones know this value."""
    kind: Literal["multiple_choice", "retrieval", "lm_eval"] | None = None
    data: Path | None = None
    prompt: str | None = None
    """A template's name or file; None takes the kind's own."""
    scorer: Literal["official", "exact"] = "official"
    max_tokens: Whole | None = Field(default=None, ge=1)
    """None is 1 for multiple choice and 7 for retrieval."""
    on_bad: Literal["refuse", "skip"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.kind == "lm_eval":
            ours = self.model_fields_set & {"data", "prompt", "scorer", "max_tokens", "on_bad"}
            if ours:
                raise ValueError(f"{min(ours)}: a task of lm-eval says that in its own file")
        elif self.metric != "acc,none":
            raise ValueError(f"metric: a {self.kind} task has acc,none alone")
        return self


class StudyConfig(Section):
    """A whole file."""

    genome: GenomeConfig
    tasks: tuple[TaskConfig, ...]
    limit: Whole | None = Field(default=None, ge=1)
    """At most this many search questions a task."""
    num_fewshot: Whole | None = Field(default=None, ge=0)
    """How many examples stand in a prompt; None is all of a template's, or what a task of lm-eval
    says itself."""
    shuffle: bool = False
    """Let the seed choose which questions `limit` leaves."""
    random_init: bool = False
    """Start the search at a random point instead of the uniform merge."""
    apply_chat_template: bool | None = None
    """Tasks of lm-eval only. None is true where the tokenizer has a template."""
    fewshot_as_multiturn: bool | None = None
    """Tasks of lm-eval only, with a chat template: examples as turns of their own. None is true."""
    study: StudySection = StudySection()
    search: SearchConfig = SearchConfig()
    space: SpaceConfig = SpaceConfig()
    engine: EngineConfig = EngineConfig()
    _folder: Path = PrivateAttr(default=Path())
    _file: Path = PrivateAttr(default=Path("study.yaml"))
    _task_folders: tuple[Path, ...] = PrivateAttr(default=())
    _benchmarks: bool | None = PrivateAttr(default=None)

    @field_validator("tasks")
    @classmethod
    def _some_tasks(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        if not tasks:
            raise ValueError("at least one task is needed")
        names = [task.name for task in tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} stands there twice")
        if not any(task.weight for task in tasks):
            raise ValueError("all weights are 0")
        return tasks

    @model_validator(mode="after")
    def _templates_fit_the_tasks(self) -> Self:
        native = [task.name for task in self.tasks if task.kind != "lm_eval"]
        for key in ("apply_chat_template", "fewshot_as_multiturn"):
            if getattr(self, key) and native:
                raise ValueError(
                    f"{key}: is not there for native tasks such as {native[0]}: their template is "
                    "used as it stands"
                )
        return self

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        weight = self.space.weight
        if weight and weight.low < 0 and not self.genome.allow_negative_weights:
            raise ValueError("space.weight: below 0 needs genome.allow_negative_weights: true")
        return self

    @model_validator(mode="after")
    def _all_of_it_counts(self) -> Self:
        name = self.genome.merge_method
        for field in sorted(self.space.model_fields_set):
            key = SpaceConfig.model_fields[field].alias or field
            if key in self.genome.parameters:
                raise ValueError(f"space.{key}: genome.parameters sets it to one value")
            range_ = self.space.given(key)
            if wrong := wrong_range(name, key, [range_.low, range_.high] if range_ else []):
                raise ValueError(f"space.{key}: {wrong}")
        return self

    @property
    def folder(self) -> Path:
        """The file's folder, which its relative paths start from."""
        return self._folder

    @property
    def file(self) -> Path:
        """Where it was read from."""
        return self._file

    @property
    def task_folders(self) -> tuple[Path, ...]:
        """Where tasks of lm-eval are looked for, and their code run: given on the command line."""
        return self._task_folders

    @property
    def benchmarks(self) -> bool | None:
        """Whether common benchmarks may be searched against; None where nobody asks."""
        return self._benchmarks

    def at(
        self, file: Path, task_folders: Iterable[Path] = (), benchmarks: bool | None = None
    ) -> Self:
        """The same config as read from `file`, its paths relative to the file's folder."""
        copy = self.model_copy()
        copy._file, copy._folder = file, file.resolve().parent
        copy._task_folders, copy._benchmarks = tuple(task_folders), benchmarks
        return copy

    @property
    def name(self) -> str:
        assert self.study.name is not None
        return self.study.name
