"""--wandb: each trial and each generation in Weights & Biases, as mergekit-evolve logged them.

The loop hands numbers to a queue and goes on; a thread hands them to wandb. Whatever is wrong
there is told once, and the study never waits for it but a little at its end.
"""

import contextlib
import logging
import queue
import statistics
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml

from objectives.merge.mergekit_yaml import to_mergekit
from storage.claims import Claims, ClaimTaken
from storage.database.url import redacted
from storage.trials import GENERATION, TrialRecord, Trials
from study.cli.options import Wandb
from study.search.genome import Genome
from study.search.sampler import Replay
from study.search.state import SearchState, Slot, best_search, slot_of
from study.setup.setup import Setup

log = logging.getLogger(__name__)

STATE = "wandb"
"""The study's attribute that keeps the run's id, and how many slots are logged."""
_CLAIM = "logging to wandb"
_PATIENCE = 60.0
"""Seconds that a study waits at its end for what wandb has not taken yet."""

Log = Callable[[Sequence[TrialRecord]], None]


@contextlib.contextmanager
def tracked(
    setup: Setup, trials: Trials, claims: Claims, replay: Replay, options: Wandb | None
) -> Iterator[Log]:
    """What to call with all trials after each of the worker's; of several workers one logs."""
    if options is None:
        yield lambda records: None
        return
    sender = Sender(options, setup)
    try:
        claims.acquire(_CLAIM)
    except ClaimTaken:
        log.info("another worker logs to wandb: this one does not")
        yield lambda records: None
        return
    study = trials.study
    tracker = Tracker(setup, replay, study, sender.send)
    sender.start(tracker.state["id"])
    try:
        yield tracker.told
        tracker.told(trials.all())
    finally:
        sender.close()
        trials.database.retry(tracker.keep)
        claims.release(_CLAIM)


def both(first: Log, second: Log) -> Log:
    """Call one after the other."""

    def told(records: Sequence[TrialRecord]) -> None:
        first(records)
        second(records)

    return told


class Tracker:
    """Turns trials into what is logged, in the order of the search whoever ran them, each once."""

    def __init__(
        self,
        setup: Setup,
        replay: Replay,
        study: optuna.Study,
        send: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._setup, self._replay, self._study, self._send = setup, replay, study, send
        known = study.user_attrs.get(STATE) or {"id": uuid.uuid4().hex[:16], "logged": 0}
        self.state: dict[str, Any] = dict(known)
        self.keep()

    def keep(self) -> None:
        """Store how far this is, for the next start."""
        self._study.set_user_attr(STATE, dict(self.state))

    def told(self, records: Sequence[TrialRecord]) -> None:
        """Log what has been finished; an error here is told, and ends nothing."""
        try:
            self._told(records)
        except Exception as error:  # a study does not end because of its log
            log.warning("wandb was told nothing: %s: %s", type(error).__name__, error)

    def _told(self, records: Sequence[TrialRecord]) -> None:
        by_slot = {slot: r for r in records if r.complete and (slot := slot_of(r)) is not None}
        population = self._replay.population
        while (slot := Slot(*divmod(self.state["logged"], population))) in by_slot:
            record = by_slot[slot]
            self.state["logged"] += 1
            self._send(_trial(record, self.state["logged"]))
            if self.state["logged"] % population == 0:
                done = [r for s, r in by_slot.items() if s.generation <= slot.generation]
                self._send(self._generation(slot.generation, done, records))
                self.keep()

    def _generation(
        self, generation: int, done: Sequence[TrialRecord], records: Sequence[TrialRecord]
    ) -> dict[str, Any]:
        top = best_search(done)
        assert top is not None
        genome = self._setup.genome
        search = SearchState.of(records, self._replay.population)
        assert generation < search.generation
        finished = search.finished
        mean = self._replay.mean(generation + 1, finished)
        metrics = {
            task.name: task.metric.removesuffix(",none") for task in self._setup.config.tasks
        }
        fresh = [r for r in done if r.attributes[GENERATION] == generation]
        return {
            "generation": generation,
            "evaluations": self.state["logged"],
            "best_score": top.value,
            **_population(fresh, metrics),
            **{
                f"baseline/{r.baseline}": r.value
                for r in records
                if r.complete and r.baseline is not None
            },
            "best_genome": _table(genome, top.params),
            "mean_genome": _table(genome, mean),
            "mean_std": _table(genome, self._replay.deviations(generation + 1, finished)),
            "best_config": yaml.safe_dump(
                to_mergekit(genome.recipe(top.params), genome.references), sort_keys=False
            ),
        }


def _trial(record: TrialRecord, evaluations: int) -> dict[str, Any]:
    return {
        "evaluations": evaluations,
        "trial/score": record.value,
        **{f"trial/{name}": score for name, score in record.tasks.items()},
        **{f"seconds/{part}": seconds for part, seconds in record.seconds.items()},
    }


def _population(fresh: Sequence[TrialRecord], metrics: Mapping[str, str]) -> dict[str, float]:
    values = [r.value for r in fresh if r.value is not None]
    found = {
        "population/score_mean": statistics.fmean(values),
        "population/score_std": statistics.pstdev(values),
    }
    for task, metric in metrics.items():
        scores = [r.tasks[task] for r in fresh]
        for name, of in (("mean", statistics.fmean), ("max", max), ("min", min)):
            found[f"population/{task}_{metric}_{name}"] = of(scores)
    return found


@dataclass(frozen=True)
class Table:
    """A genome as mergekit-evolve's tables have it: blocks down, models' parameters across."""

    columns: list[str]
    rows: list[list[Any]]


def _table(genome: Genome, params: Mapping[str, float]) -> Table:
    """Numbers named model/block/[filter/]parameter; one of the whole merge has a column alone."""
    columns: dict[str, None] = {}
    rows: dict[str, dict[str, float]] = {}
    for name, value in params.items():
        model, *rest = name.split("/")
        block = rest[0] if rest else "all"
        column = "_".join([model, *rest[-1:], *rest[1:-1]])
        columns[column] = None
        rows.setdefault(block, {})[column] = value
    cells = [[block, *(row.get(column) for column in columns)] for block, row in rows.items()]
    return Table(["block", *columns], cells)


class Sender:
    """The thread that speaks to wandb."""

    def __init__(self, options: Wandb, setup: Setup) -> None:
        import wandb

        self._wandb: Any = wandb
        self._options, self._name = options, setup.config.name
        self._config = setup.config.model_dump(mode="json")
        if url := setup.config.study.storage:
            self._config["study"]["storage"] = redacted(url)
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def send(self, numbers: Mapping[str, Any]) -> None:
        self._queue.put(numbers)

    def start(self, run_id: str) -> None:
        self._thread = threading.Thread(target=self._work, args=(run_id,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let what is waiting go out, for a while."""
        assert self._thread is not None
        self._queue.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            log.warning("wandb has not taken everything in %.0f s: it is left", _PATIENCE)

    def _work(self, run_id: str) -> None:
        try:
            self._log_all(run_id)
        except Exception as error:  # a study does not end because of its log
            reason = " ".join(str(error).split())[:200]
            log.warning("nothing more goes to wandb: %s: %s", type(error).__name__, reason)

    def _log_all(self, run_id: str) -> None:
        wandb = self._wandb
        folder = Path("runs", self._name)
        folder.mkdir(parents=True, exist_ok=True)
        _hide_storage(sys.argv)  # wandb stores the command line
        settings = wandb.Settings(console="off", silent=True)
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise PermissionError(
                "not logged in: wandb login, or WANDB_API_KEY, or WANDB_MODE=offline"
            )
        run = wandb.init(
            project=self._options.project or "mergekit-evolve",
            entity=self._options.entity,
            id=run_id,
            name=self._name,
            resume="allow",
            config=self._config,
            dir=str(folder),
            settings=settings,
        )
        run.define_metric("evaluations")
        run.define_metric("*", step_metric="evaluations")
        best = None
        try:
            while (numbers := self._queue.get()) is not None:
                best = self._log(run, dict(numbers), best)
        finally:
            run.finish()

    def _log(self, run: Any, numbers: dict[str, Any], best: str | None) -> str | None:
        """Log one set of numbers; the best merge's recipe is kept as an artifact when it is new."""
        recipe = numbers.pop("best_config", None)
        for name, value in numbers.items():
            if isinstance(value, Table):
                numbers[name] = self._wandb.Table(columns=value.columns, data=value.rows)
        run.log(numbers)
        if recipe is None or recipe == best:
            return best
        artifact = self._wandb.Artifact("best_config", type="merge_config")
        with artifact.new_file("best_config.yaml") as file:
            file.write(recipe)
        run.log_artifact(artifact)
        return str(recipe)


def _hide_storage(words: list[str]) -> None:
    """Replace the database URL of a command line by one without its password."""
    option = "--storage"
    for n, word in enumerate(words):
        if n and words[n - 1] == option:
            words[n] = redacted(word)
        elif word.startswith(f"{option}="):
            words[n] = f"{option}={redacted(word.partition('=')[2])}"
