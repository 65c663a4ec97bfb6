"""python -m study.status CONFIG: where a study stands."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .command import ConfigPath, StorageUrl, application, reported, start_logging

AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def status(config: ConfigPath, storage: StorageUrl = None, as_json: AsJson = False) -> None:
    """Show where a study stands: trials, generation, and the best merge so far."""
    start_logging()
    with reported():
        found = _status(config, storage)
    print(json.dumps(found, indent=2) if as_json else _text(found))


def _status(path: Path, storage: str | None) -> dict[str, Any]:
    from storage.database import open_storage
    from storage.studies import find_study, stored_fingerprint
    from storage.trials import Trials
    from storage.url import redacted

    from .config_file import load_config, study_url
    from .sampler import generation_of, places_of

    config = load_config(path)
    url = study_url(config, storage)
    study = find_study(open_storage(url, create=False), config.name)
    trials = Trials(study)
    records = trials.all()
    states = [record.state.name for record in records]
    population = int(stored_fingerprint(study).get("population", 0))
    finished, _ = places_of(trials.frozen())
    return {
        "study": config.name,
        "storage": redacted(url),
        "trials": {
            "complete": states.count("COMPLETE"),
            "failed": states.count("FAIL"),
            "running": states.count("RUNNING"),
        },
        "search_trials": {"finished": len(finished), "budget": config.study.trials},
        "generation": generation_of(finished, population) if population else 0,
        "population": population,
        "best": _best(records),
    }


def _best(records: Any) -> dict[str, Any] | None:
    from storage.trials import best_merge

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


def _text(found: dict[str, Any]) -> str:
    counts, search = found["trials"], found["search_trials"]
    lines = [
        f"study {found['study']} in {found['storage']}",
        f"search trials {search['finished']} of {search['budget']}, generation "
        f"{found['generation']}, population {found['population']}",
        ", ".join(f"{count} {state}" for state, count in counts.items()) + ", baselines included",
    ]
    best = found["best"]
    if best is None:
        return "\n".join([*lines, "no merge has been scored yet"])
    tasks = ", ".join(f"{name} {mean:.3f}" for name, mean in best["tasks"].items())
    name = f" ({best['baseline']})" if best["baseline"] else ""
    error = f" ± {best['error']:.4f}" if best["error"] is not None else ""
    return "\n".join(
        [*lines, f"best trial {best['trial']}{name}: {best['value']:.4f}{error} ({tasks})"]
    )


if __name__ == "__main__":
    application(status)()
