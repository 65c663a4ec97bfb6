"""Where the time of a stored study went: medians over its search trials.

python -m benchmarks.where examples/demo/study.yaml [--storage URL]
"""

import argparse
import statistics
from pathlib import Path

from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import Trials
from study.config.load import load_config, study_url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--storage")
    given = parser.parse_args()
    config = load_config(given.config)
    url = study_url(config, given.storage)
    database = open_storage(url, create=False)
    trials = Trials(database, find_study(database, config.name))
    searched = [t for t in trials.all() if t.complete and t.kind == "search"]
    whole = [
        (t.datetime_complete - t.datetime_start).total_seconds()
        for t in trials.frozen()
        if t.datetime_complete and t.datetime_start and "generation" in t.user_attrs
    ]
    print(f"{len(searched)} trials, medians in milliseconds:")
    for part in searched[0].seconds:
        print(f"  {part:6} {1000 * statistics.median(t.seconds[part] for t in searched):8.1f}")
    print(f"  whole  {1000 * statistics.median(whole):8.1f}   from creation to the end")


if __name__ == "__main__":
    main()
