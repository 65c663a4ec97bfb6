"""python -m study.status CONFIG: where a study stands."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.options import ConfigPath, StorageUrl
from study.cli.session import start_logging

if TYPE_CHECKING:
    from storage.workers import Watch, WorkerRecord, Workers

_PACE_SECONDS = 600.0
_SHOWN = 20
"""Workers at most; the latest."""

AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def status(config: ConfigPath, storage: StorageUrl = None, as_json: AsJson = False) -> None:
    """Show where a study stands: trials, generation, workers, and the best merge so far."""
    start_logging()
    found = _status(config, storage)
    say(json.dumps(found, indent=2) if as_json else _text(found))


def _status(path: Path, storage: str | None) -> dict[str, Any]:
    from storage.database.database import open_storage
    from storage.database.url import redacted
    from storage.studies import find_study, stored_budget, stored_fingerprint, stored_verdict
    from storage.trials import Trials
    from storage.workers import Watch, Workers
    from study.config.load import load_config, study_url
    from study.search.state import SearchState

    config = load_config(path)
    url = study_url(config, storage)
    database = open_storage(url, create=False)
    study = find_study(database, config.name)
    records = Trials(database, study).all()
    population = int(stored_fingerprint(study).get("population", 0))
    state = SearchState.of(records, population)
    workers = Workers(database, study._study_id)
    return {
        "study": config.name,
        "storage": redacted(url),
        "trials": {
            "complete": sum(record.complete for record in records),
            "failed": sum(record.failed for record in records),
            "interrupted": sum(record.interrupted for record in records),
            "running": sum(record.state.name == "RUNNING" for record in records),
        },
        "search_trials": {
            "finished": len(state.finished),
            "budget": stored_budget(study, config.study.trials),
        },
        "generation": state.generation,
        "population": population,
        "best": _best(records),
        "verdict": stored_verdict(study),
        "trials_an_hour": workers.trials_per_hour(_PACE_SECONDS),
        "workers": _workers(workers, Watch(config.study.grace)),
    }


def _workers(workers: "Workers", watch: "Watch") -> list[dict[str, Any]]:
    """Those at work, and those that died and were not seen off since the last one started."""
    listed, now = workers.read_all()
    gone = {record.id for record in watch.find_dead(listed, now)}
    held = workers.unfinished_claims()
    found = []
    for record in listed:
        died = record.id in gone or (record.end or "").startswith("died")
        if record.end is not None and not died:
            continue
        found.append(
            {
                "worker": record.name,
                "device": record.device,
                "silent_seconds": round(record.silent, 1),
                "state": _state(record, watch, died),
                "doing": record.end if record.end else record.doing,
                "holds": {c.key: round(c.seconds, 1) for c in held.get(record.id, [])},
            }
        )
    return found[-_SHOWN:]


def _state(record: "WorkerRecord", watch: "Watch", died: bool) -> str:
    if died:
        return "dead"
    return "silent" if record.silent > watch.timeout else "at work"


def _best(records: Any) -> dict[str, Any] | None:
    from study.search.state import best_merge

    top = best_merge(records)
    if top is None:
        return None
    return {
        "trial": top.number,
        "value": top.value,
        "error": top.error,
        "tasks": top.tasks,
        "baseline": top.baseline,
    }


def _line(worker: dict[str, Any]) -> str:
    name = f"worker {worker['worker']} on {worker['device']}: {worker['state']}"
    heard = f"last heard of {_ago(worker['silent_seconds'])} ago"
    held = [f"{what} for {_ago(seconds)}" for what, seconds in worker["holds"].items()]
    at = ", ".join(held) or worker["doing"]
    if worker["state"] == "at work":
        return f"{name}, {at}; {heard}"
    return f"{name}, {heard}; it was at {at}" if held else f"{name}, {heard}; {at}"


def _ago(seconds: float) -> str:
    from study.cli.text import duration

    return duration(seconds)


def _text(found: dict[str, Any]) -> str:
    counts, search = found["trials"], found["search_trials"]
    lines = [
        f"study {found['study']} in {found['storage']}",
        f"search trials {search['finished']} of {search['budget']}, generation "
        f"{found['generation']}, population {found['population']}",
        ", ".join(
            f"{count} {state}" for state, count in counts.items() if count or state != "interrupted"
        )
        + ", baselines included",
    ]
    at_work = any(worker["state"] == "at work" for worker in found["workers"])
    if at_work and found["trials_an_hour"] is not None:
        lines.append(f"{found['trials_an_hour']:.0f} trials an hour")
    lines += [_line(worker) for worker in found["workers"]]
    best = found["best"]
    if best is None:
        return "\n".join([*lines, "no merge has been scored yet"])
    tasks = ", ".join(f"{name} {mean:.3f}" for name, mean in best["tasks"].items())
    name = f" ({best['baseline']})" if best["baseline"] else ""
    error = f" ± {best['error']:.4f}" if best["error"] is not None else ""
    lines.append(f"best trial {best['trial']}{name}: {best['value']:.4f}{error} ({tasks})")
    if verdict := found["verdict"]:
        lines.append(f"verdict after {verdict['after']} search trials: {verdict['sentence']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(status)
