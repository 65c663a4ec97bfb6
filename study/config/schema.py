"""What a study file may say, section by section; each key is documented where it stands.

The file is a superset of mergekit-evolve's: `genome`, `tasks` and the options beside them mean
what they mean there; `study`, `space` and `engine` are ours.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from .foreign_keys import advice
from .genome import GenomeConfig, SpaceConfig
from .method_rules import wrong_range
from .names import wrong_name
from .section import MOST_TOKENS, Number, Section, Whole
from .task import TaskConfig

MOST_TRIALS = 1_000_000
"""A million trials of a second each take 11 days, and every look at a study reads them all."""
_MOST_POPULATION = 100_000
_MOST_QUESTIONS = 2**31 - 1
_MOST_SECONDS = 1e9
"""30 years; the operating system takes no longer waits."""


class SearchConfig(Section):
    """How the search proposes merges, and what its trials are asked. docs/search.md and
    docs/gradient.md have figures."""

    algorithm: Literal["cmaes", "gradient"] = "cmaes"
    """gradient follows the derivative of the objective by the parameters of the merge."""
    steps: Whole = Field(default=48, ge=1, le=100_000)
    """Steps of each ascent; gradient only. study.trials may stop the search earlier."""
    ascents: Whole = Field(default=1, ge=1, le=1000)
    """Ascents from different starts, which several workers can share; gradient only."""
    batch: Whole = Field(default=96, ge=1, le=_MOST_QUESTIONS)
    """Questions of a step; gradient only."""
    loss: Literal["all", "options"] = "all"
    """all is -log of the probability of the right answer among all texts; options compares it with
    the other options of the question. Gradient only."""
    rate: Number = Field(default=0.03, gt=0, le=1)
    """How far a step moves a parameter at most, as a share of its range; gradient only."""
    pull: Number = Field(default=0.0, ge=0)
    """Weight of the squared distance from the start, in shares of the ranges; gradient only."""
    kept_out: Number = Field(default=0.25, gt=0, lt=1)
    """Share of the search questions that no step uses: they decide when an ascent ends, and which
    of its points is offered; gradient only."""
    soft: Number = Field(default=1.0, ge=0, le=1)
    """Share of the probability of the right answer in what CMA-ES ranks trials by; the rest is
    the score. The score is reported in any case."""
    questions: Number | None = Field(default=None, gt=0, le=1)
    """Share of the search questions, by their tokens, that a trial is asked: those first whose
    outcome varies between trials. None is a quarter of 400 or more, and all of fewer."""


class StudySection(Section):
    """The study itself."""

    name: str | None = None
    """None takes the file's name. It names a folder: see `wrong_name`."""
    storage: str | None = None
    """A database URL; None is SQLite in runs/<name>/study.db under the current folder."""
    trials: Whole = Field(default=1000, ge=1, le=MOST_TRIALS)
    """Search trials to finish, up to a million; baselines come on top."""
    seed: Whole = Field(default=0, ge=0)
    population: Whole | None = Field(default=None, ge=4, le=_MOST_POPULATION)
    """CMA-ES population; None takes 4 + floor(3 ln n), twice that beyond 350 trials."""
    fit_population: bool = False
    """Round a new study's population up to a multiple of the workers it is started with."""
    sigma: Number = Field(default=1 / 6, gt=0, le=1)
    """First step size, as a share of each parameter's range."""
    start_from: str | None = Field(default=None, min_length=1)
    """An earlier study in the same database, of the same parameters: the search begins where its
    best trials are. None begins in the middle of the space."""
    held_out: Number = Field(default=0.25, ge=0, lt=1)
    """Share of the questions that the search never sees."""
    grace: Number = Field(default=60.0, ge=1, le=_MOST_SECONDS)
    """Seconds of silence after which a worker on another host is taken for dead."""
    outage_limit: Number = Field(default=600.0, ge=0, le=_MOST_SECONDS)
    """Seconds that a run waits for a database that is away."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and (wrong := wrong_name(name)):
            raise ValueError(wrong)
        return name

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
    threads: Whole | None = Field(default=None, ge=1, le=1024)
    """CPU threads of each worker, stored with the study when it begins; None is OMP_NUM_THREADS,
    else 1. On a GPU it has no effect."""
    batch_tokens: Whole | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """Tokens of a batch, padding and all; None is 4096 on a CPU, else 8192."""
    sources: Literal["auto", "gpu", "pinned", "file"] = "auto"
    """Where a GPU's sources live: on it, in page-locked host memory, or in their files. auto is
    the first of them with room; vllm only."""
    tensor_parallel_size: Whole = Field(default=1, ge=1)
    """GPUs that share a model; vllm only."""
    eager: bool = True
    """Run vLLM without compilation and CUDA graphs: it starts sooner."""
    deadline: Number = Field(default=900.0, gt=0, le=_MOST_SECONDS)
    """Seconds that vLLM has for a merge or a round of questions before it is started anew; its
    start and the reading of the sources may take four times as long."""


class StudyConfig(Section):
    """A whole file."""

    genome: GenomeConfig
    tasks: tuple[TaskConfig, ...]
    limit: Whole | None = Field(default=None, ge=1, le=_MOST_QUESTIONS)
    """At most this many search questions a task."""
    num_fewshot: Whole | None = Field(default=None, ge=0, le=_MOST_QUESTIONS)
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
    _trials: int | None = PrivateAttr(default=None)

    @classmethod
    def unknown(cls, key: str, known: list[str]) -> str:
        """What is said of an unknown key at the top of the file."""
        sections: dict[str, list[str]] = {}
        for name, field in cls.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                sections[name] = [f.alias or n for n, f in kind.model_fields.items()]
        return advice(key, sections) or super().unknown(key, known)

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
    def _search_begins_in_one_place(self) -> Self:
        earlier = self.study.start_from
        if self.random_init and earlier is not None:
            raise ValueError("random_init: study.start_from says already where the search begins")
        if earlier is not None and earlier == self.study.name:
            raise ValueError(
                f"study.start_from: {earlier} is the study itself; choose another study.name"
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

    @model_validator(mode="after")
    def _search_ends_with_its_ascents(self) -> Self:
        by_gradient = self.search.algorithm == "gradient"
        for key in ("steps", "ascents", "batch", "rate", "pull", "kept_out"):
            if key in self.search.model_fields_set and not by_gradient:
                raise ValueError(f"search.{key}: needs search.algorithm: gradient")
        for key in ("soft", "questions"):
            if key in self.search.model_fields_set and by_gradient:
                raise ValueError(f"search.{key}: has no effect on search.algorithm: gradient")
        if by_gradient and self.engine.kind == "vllm":
            raise ValueError("engine.kind: search.algorithm: gradient needs transformers")
        if by_gradient and self.engine.tensor_parallel_size > 1:
            raise ValueError("engine.tensor_parallel_size: gradient uses one GPU per worker")
        if self.most_trials < self.study.trials:
            study = self.study.model_copy(update={"trials": self.most_trials})
            object.__setattr__(self, "study", study)
        return self

    @property
    def most_trials(self) -> int:
        """The number of search trials after which there are no further ones."""
        search = self.search
        return search.steps * search.ascents if search.algorithm == "gradient" else MOST_TRIALS

    def of_trials(self, trials: int) -> Self:
        """Return the same study with this budget of search trials, or all that there are."""
        study = self.study.model_copy(update={"trials": min(trials, self.most_trials)})
        copy = self.model_copy(update={"study": study})
        copy._trials = self._trials or self.study.trials
        return copy

    @property
    def trials_given(self) -> int | None:
        """The budget, where it is another than the file's."""
        return None if self._trials in (None, self.study.trials) else self.study.trials

    @property
    def name(self) -> str:
        assert self.study.name is not None
        return self.study.name
