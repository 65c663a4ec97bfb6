"""Logs each trial and each generation to Weights & Biases, as mergekit-evolve did.

The worker puts numbers into a queue and a thread passes them to wandb, so the search does not wait
for wandb, except for a limited time at its end.
"""

import logging
import queue
import statistics
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
import yaml

from storage.claims import Claims, ClaimTaken
from storage.database.url import redacted
from storage.trials import GENERATION, RESULT, TrialRecord, Trials
from study.cli.options import Wandb
from study.search.sampler import Proposals
from study.search.state import LOSS, SearchState, Slot, best_merge, best_search, is_step, slot_of
from study.setup.setup import Setup

from .monitor import Monitor
from .wandb_tables import Table, in_mergekit, table

log = logging.getLogger(__name__)

STATE = "wandb"
"""The study attribute that stores the run's id and the number of slots that are logged."""
_CLAIM = "logging to wandb"
_CLOSE_TIMEOUT = 60.0
"""Seconds to wait for the queue to become empty at the end of a study."""


class WandbMonitor(Monitor):
    """Logs a study to Weights & Biases. If there are several workers, only the first one logs."""

    def __init__(
        self, setup: Setup, trials: Trials, claims: Claims, replay: Proposals, options: Wandb
    ) -> None:
        self._setup, self._trials, self._claims = setup, trials, claims
        self._replay, self._options = replay, options
        self._tracker: Tracker | None = None
        """None if another worker logs."""

    def __enter__(self) -> Self:
        sender = Sender(self._options, self._setup)
        try:
            self._claims.acquire(_CLAIM)
        except ClaimTaken:
            log.info("another worker logs to wandb; this worker does not")
            return self
        self._sender = sender
        self._tracker = Tracker(self._setup, self._replay, self._trials.study, sender.send)
        sender.start(self._tracker.state["id"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tracker is None:
            return
        try:
            if error is None:
                self._tracker.log(self._trials.all())
        finally:
            self._sender.close()
            self._trials.database.retry(self._tracker.store)
            self._claims.release(_CLAIM)

    def on_trials(self, records: Sequence[TrialRecord]) -> None:
        if self._tracker is not None:
            self._tracker.log(records)


class Tracker:
    """Turns trials into numbers to log: each trial once, in the order of the search."""

    def __init__(
        self,
        setup: Setup,
        replay: Proposals,
        study: optuna.Study,
        send: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._setup, self._replay, self._study, self._send = setup, replay, study, send
        stored = study.user_attrs.get(STATE) or {"id": uuid.uuid4().hex[:16], "logged": 0}
        self.state: dict[str, Any] = dict(stored)
        self.store()

    def store(self) -> None:
        """Store the run's id and the number of logged trials, for the next run."""
        self._study.set_user_attr(STATE, dict(self.state))

    def log(self, records: Sequence[TrialRecord]) -> None:
        """Send the trials and generations that have finished since the last call."""
        by_slot = {slot: r for r in records if r.complete and (slot := slot_of(r)) is not None}
        population = self._replay.population
        while (slot := Slot(*divmod(self.state["logged"], population))) in by_slot:
            record = by_slot[slot]
            self.state["logged"] += 1
            self._send(_trial(record, self.state["logged"]))
            if self.state["logged"] % population == 0:
                done = [r for s, r in by_slot.items() if s.generation <= slot.generation]
                self._send(self._generation(slot.generation, done, records))
                self.store()

    def _generation(
        self, generation: int, done: Sequence[TrialRecord], records: Sequence[TrialRecord]
    ) -> dict[str, Any]:
        top = best_search(done) or best_merge(records) or done[-1]  # steps have no own score
        genome = self._setup.genome
        search = SearchState.of(records, self._replay.population)
        assert generation < search.generation
        finished = search.finished
        mean = self._replay.mean(generation + 1, finished)
        deviations = self._replay.deviations(generation + 1, finished)
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
            "best_genome": table(genome, top.params),
            "mean_genome": table(genome, mean),
            "mean_std": table(genome, deviations, labelled=False),
            "best_config": yaml.safe_dump(in_mergekit(genome, top.params), sort_keys=False),
        }


def _trial(record: TrialRecord, evaluations: int) -> dict[str, Any]:
    return {
        "evaluations": evaluations,
        "trial/score": record.value,
        **{f"trial/{name}": score for name, score in record.tasks.items()},
        **({"trial/loss": record.attributes[RESULT][LOSS]} if is_step(record) else {}),
        **{f"seconds/{part}": seconds for part, seconds in record.seconds.items()},
    }


def _population(fresh: Sequence[TrialRecord], metrics: Mapping[str, str]) -> dict[str, float]:
    values = [r.value for r in fresh if r.value is not None]
    result = {
        "population/score_mean": statistics.fmean(values),
        "population/score_std": statistics.pstdev(values),
    }
    for task, metric in metrics.items():
        scores = [r.tasks[task] for r in fresh]
        for name, of in (("mean", statistics.fmean), ("max", max), ("min", min)):
            result[f"population/{task}_{metric}_{name}"] = of(scores)
    return result


class Sender:
    """The thread that calls wandb."""

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
        """Wait a limited time until the queue is empty, and end the thread."""
        assert self._thread is not None
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        if self._thread.is_alive():
            log.warning(
                "wandb has not accepted all data within %.0f s; the rest is dropped", _CLOSE_TIMEOUT
            )

    def _work(self, run_id: str) -> None:
        try:
            self._log_all(run_id)
        except Exception as error:  # no error of wandb may end the study
            reason = " ".join(str(error).split())[:200]
            log.warning("logging to wandb has stopped: %s: %s", type(error).__name__, reason)

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
        """Log one set of numbers, and a new best merge as an artifact; return the best merge."""
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
    """Remove the password from the database URL of a command line, in place."""
    option = "--storage"
    for n, word in enumerate(words):
        if n and words[n - 1] == option:
            words[n] = redacted(word)
        elif word.startswith(f"{option}="):
            words[n] = f"{option}={redacted(word.partition('=')[2])}"
