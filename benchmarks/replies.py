"""What it costs to keep what every merge said: bytes in the database, and time at a trial's end.

    python -m benchmarks.replies [--trials 1000]

Each trial answers 2,000 multiple-choice questions with a token of four options and 250 retrieval
questions with seven tokens; nine of ten questions get the answer that most merges give. Eight
trials are compared in the end: of those the log-probabilities are kept, of 750 held-out questions
too.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from optuna.distributions import FloatDistribution

from storage.answers import StoredAnswers
from storage.claims import Claims
from storage.database.database import open_storage
from storage.scores import HELD_OUT, ScoreStore, StoredScores
from storage.studies import create_study

_COMPARED = 8
_TASKS = {"choice": (2000, 1, 4), "retrieval": (250, 7, 15)}
"""Task to its questions, the tokens of an answer, and its options."""


def answers(trial: int, keep: bool, logprobs: bool, share: float = 1.0) -> dict[str, StoredScores]:
    made = {}
    for name, (questions, length, options) in _TASKS.items():
        count = int(questions * share)
        usual, own = np.random.default_rng(0), np.random.default_rng(trial)
        tokens = usual.integers(28_700, 28_700 + options, (count, length))
        other = own.random(count) < 0.1
        tokens[other] = own.integers(28_700, 28_700 + options, (int(other.sum()), length))
        right = (own.random(count) < 0.7).astype(np.float32)
        said = StoredAnswers(
            "engine",
            tuple((tuple(row),) for row in tokens.tolist()),
            tuple((tuple(row),) for row in own.normal(-2, 1, (count, options)).tolist())
            if logprobs
            else None,
        )
        soft = own.random(count, dtype=np.float32)
        made[name] = StoredScores(1.0, right, soft, 0, said if keep else None)
    return made


def measure(trials: int, keep: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        database = open_storage(f"sqlite:///{folder}/s.db")
        claims = Claims(database, create_study(database, "s")._study_id, "me")
        distributions = {f"p{i}": FloatDistribution(0.0, 1.0) for i in range(48)}
        seconds = []
        for n in range(trials):
            made = answers(n, keep, logprobs=n < _COMPARED)
            trial = claims.start(str(n), dict.fromkeys(distributions, 0.5), distributions, {})
            begun = time.perf_counter()
            claims.finish(trial, 0.5, {}, {}, made)
            seconds.append(time.perf_counter() - begun)
            if n < _COMPARED:
                ScoreStore(database).write(trial, HELD_OUT, answers(n, keep, True, 1 / 3))
        database.engine.dispose()
        size = sum(path.stat().st_size for path in Path(folder).glob("s.db*"))
    return f"{size / 1e6:.1f} MB | {1000 * statistics.median(seconds):.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    given = parser.parse_args()
    print("| | database | a trial's end |\n|---|---|---|")
    for name, keep in (("scores alone", False), ("with what was said", True)):
        print(f"| {name} | {measure(given.trials, keep)} |", flush=True)


if __name__ == "__main__":
    main()
