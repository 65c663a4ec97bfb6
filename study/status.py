"""python -m study.status CONFIG: the progress of a study, its workers and its best merge."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.options import ConfigPath, StorageUrl
from study.cli.session import start_logging
from study.cli.text import duration, score_text

if TYPE_CHECKING:
    from storage.heartbeat import Watch
    from storage.trials import TrialRecord
    from storage.workers import WorkerRecord, Workers
    from study.monitors.cut_off_answers import CutOffShare
    from study.setup.stored import StoredStudy

_PACE_SECONDS = 600.0
"""The period over which the pace is measured."""
_MAX_WORKERS = 20
"""The largest number of workers to list; older ones are left out."""
_AT_WORK = "at work"

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class TrialCounts:
    """The number of trials in each state, baselines and final merges included."""

    complete: int
    failed: int
    interrupted: int
    running: int


@dataclass(frozen=True)
class SearchProgress:
    """The number of finished search trials, and the budget."""

    finished: int
    budget: int


@dataclass(frozen=True)
class BestMerge:
    """The merge with the highest score on the search questions."""

    trial: int
    value: float
    error: float | None
    """Standard error of the value over questions; None if it is unknown."""
    tasks: Mapping[str, float]
    baseline: str | None
    """The name of a uniform merge; None for a trial of the search."""


@dataclass(frozen=True)
class WorkerStatus:
    """A worker that runs or has died."""

    worker: str
    device: str
    silent_seconds: float
    """Seconds since its last heartbeat."""
    state: str
    """`at work`, `silent` (its heartbeat is overdue) or `dead`."""
    doing: str
    holds: Mapping[str, float]
    """For each claim of the worker, the seconds since it was acquired."""


@dataclass(frozen=True)
class Status:
    """The output of `study.status --json`; the fields are its keys, which are a public format."""

    study: str
    storage: str
    trials: TrialCounts
    search_trials: SearchProgress
    algorithm: str
    generation: int
    population: int
    best: BestMerge | None
    verdict: Mapping[str, Any] | None
    """The stored verdict: `sentence`, `trial` and `after`, the number of search trials."""
    trials_an_hour: float | None
    workers: Sequence[WorkerStatus]
    cut_off: Mapping[str, "CutOffShare"]
    """By task, the trial with the most answers that reached max_tokens before they were complete,
    if these are more than 2%."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(config: ConfigPath, storage: StorageUrl = None, as_json: AsJson = False) -> None:
    """Show the progress of a study: trials, generation, workers, and the best merge so far."""
    start_logging()
    current = _status(config, storage)
    say(json.dumps(current.to_dict(), indent=2) if as_json else status_text(current))


def _status(path: Path, storage: str | None) -> Status:
    from study.config.load import load_config, study_url
    from study.setup.stored import open_study

    config = load_config(path)
    with open_study(config, study_url(config, storage)) as stored:
        return _status_of(stored)


def _status_of(stored: "StoredStudy") -> Status:
    from storage.database.url import redacted
    from storage.heartbeat import Watch
    from storage.studies import stored_verdict
    from storage.workers import Workers
    from study.monitors.cut_off_answers import cut_off_shares
    from study.search.state import SearchState, best_merge

    config, records, population = stored.config, stored.records(), stored.population
    state = SearchState.of(records, population)
    workers = Workers(stored.database, stored.study._study_id)
    best = best_merge(records)
    return Status(
        study=config.name,
        storage=redacted(stored.url),
        trials=_trial_counts(records),
        search_trials=SearchProgress(len(state.finished), config.study.trials),
        algorithm=config.search.algorithm,
        generation=state.generation,
        population=population,
        best=None if best is None else _best_merge(best),
        verdict=stored_verdict(stored.study),
        trials_an_hour=workers.trials_per_hour(_PACE_SECONDS),
        workers=_worker_statuses(workers, Watch(config.study.heartbeat_timeout)),
        cut_off=cut_off_shares(records),
    )


def _trial_counts(records: "Sequence[TrialRecord]") -> TrialCounts:
    return TrialCounts(
        complete=sum(record.complete for record in records),
        failed=sum(record.failed for record in records),
        interrupted=sum(record.interrupted for record in records),
        running=sum(record.state.name == "RUNNING" for record in records),
    )


def _best_merge(record: "TrialRecord") -> BestMerge:
    assert record.value is not None
    return BestMerge(record.number, record.value, record.error, record.tasks, record.baseline)


def _worker_statuses(workers: "Workers", watch: "Watch") -> list[WorkerStatus]:
    """Return the workers that run, and those that died since the last worker started."""
    records, now = workers.read_all()
    dead = {record.id for record in watch.find_dead(records, now)}
    claims = workers.unfinished_claims()
    statuses = []
    for record in records:
        died = record.id in dead or (record.end or "").startswith("died")
        if record.end is not None and not died:
            continue
        statuses.append(
            WorkerStatus(
                worker=record.name,
                device=record.device,
                silent_seconds=round(record.silent, 1),
                state=_state(record, watch, died),
                doing=record.end if record.end else record.doing,
                holds={c.key: round(c.seconds, 1) for c in claims.get(record.id, [])},
            )
        )
    return statuses[-_MAX_WORKERS:]


def _state(record: "WorkerRecord", watch: "Watch", died: bool) -> str:
    if died:
        return "dead"
    return "silent" if record.is_overdue(watch.timeout) else _AT_WORK


def _search_line(status: Status) -> str:
    count = f"{status.search_trials.finished} of {status.search_trials.budget}"
    if status.algorithm == "gradient":
        return f"steps {count}"
    return f"search trials {count}, generation {status.generation}, population {status.population}"


def status_text(status: Status) -> str:
    """Return the status as text of several lines."""
    counts = {
        state: count
        for state, count in asdict(status.trials).items()
        if count or state != "interrupted"
    }
    lines = [
        f"study {status.study} in {status.storage}",
        _search_line(status),
        ", ".join(f"{count} {state}" for state, count in counts.items()) + ", baselines included",
    ]
    at_work = any(worker.state == _AT_WORK for worker in status.workers)
    if at_work and status.trials_an_hour is not None:
        lines.append(f"{status.trials_an_hour:.0f} trials an hour")
    lines += [_worker_line(worker) for worker in status.workers]
    lines.append(_best_line(status.best))
    if status.cut_off:
        from study.monitors.cut_off_answers import explanation

        lines.append(f"warning: {explanation(status.cut_off)}")
    if status.best and status.verdict:
        verdict = status.verdict
        lines.append(f"verdict after {verdict['after']} search trials: {verdict['sentence']}")
    return "\n".join(lines)


def _worker_line(worker: WorkerStatus) -> str:
    name = f"worker {worker.worker} on {worker.device}: {worker.state}"
    heartbeat = f"last heartbeat {duration(worker.silent_seconds)} ago"
    claims = ", ".join(
        f"{claim} for {duration(seconds)}" for claim, seconds in worker.holds.items()
    )
    if worker.state == _AT_WORK:
        return f"{name}, {claims or worker.doing}; {heartbeat}"
    return f"{name}, {heartbeat}; {f'its claims: {claims}' if claims else worker.doing}"


def _best_line(best: BestMerge | None) -> str:
    if best is None:
        return "no merge has been scored yet"
    tasks = ", ".join(f"{name} {mean:.3f}" for name, mean in best.tasks.items())
    name = f" ({best.baseline})" if best.baseline else ""
    return f"best trial {best.trial}{name}: {score_text(best.value, best.error)} ({tasks})"


if __name__ == "__main__":
    main(status)
