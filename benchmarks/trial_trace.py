"""Which modules of this project a search trial passes through, in the order of its way.

    python -m benchmarks.trial_trace examples/demo/study.yaml

Runs a small study of the file in this process and records the functions that are called while one
worker looks for a search trial, evaluates it and stores it. docs/architecture.md has the result.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from study.cli.interrupts import Interrupts
from study.config.load import load_config
from study.setup.engine import choose_engine
from study.setup.setup import build
from study.worker.join import join_study

ROOT = Path(__file__).parents[1]
_PACKAGES = ("study", "objectives", "storage")
_TRIALS = 3
_LAST = "Worker._finish"
"""The function that stores a trial; the trace ends when it returns."""


class Trace:
    """Records the modules of the project whose functions are called, in the order of first calls.

    Module bodies, which run on import, and functions that Python makes for a dataclass or a
    comprehension do not count.
    """

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name, path = frame.f_code.co_qualname, Path(frame.f_code.co_filename)
        if event == "return" and name == _LAST:
            sys.setprofile(None)
        if event != "call" or "<" in name.split(".")[-1] or not path.is_relative_to(ROOT):
            return
        relative = path.relative_to(ROOT)
        if relative.parts[0] in _PACKAGES:
            self.modules.setdefault(".".join(relative.with_suffix("").parts), name)


def trace(file: Path) -> Trace:
    """Return the trace of the last search trial of a short study."""
    config = load_config(file).with_trials(_TRIALS)
    recorded = Trace()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        setup, choice = build(config, check_values=False), choose_engine(config, "transformers")
        with join_study(setup, url, choice, Interrupts()) as worker:
            jobs = worker._jobs()
            while True:
                records = worker.trials.all()
                searched = sum(r.complete and r.kind == "search" for r in records)
                job = jobs.next(records)
                assert job is not None
                if searched == _TRIALS - 1:
                    break
                worker._evaluate(job, 0.0, records)
            sys.setprofile(recorded)
            try:
                worker._search(jobs, math.inf)
            finally:
                sys.setprofile(None)
    return recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    modules = trace(parser.parse_args().config).modules
    for number, (module, function) in enumerate(modules.items(), 1):
        print(f"{number:3} {module:45} {function}")


if __name__ == "__main__":
    main()
