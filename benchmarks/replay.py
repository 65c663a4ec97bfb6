"""What a generation's selection is worth, by how its trials were asked: replayed from answers.

    python -m benchmarks.replay FOLDER --collect [--config FILE] [--trials 120] [--seeds 2]
    python -m benchmarks.replay FOLDER [--draws 40]

--collect runs plain studies and asks every trial's merge the held-out questions too; both splits'
answers are kept in FOLDER, one database a seed. The replay takes one generation of them at a time,
scores its trials as a way of asking would have scored them, and weighs them as CMA-ES does. The
gain is the weighted mean of their true (held-out) scores above the generation's plain mean, in
points; asking everything and ranking by accuracy is the measure. Nothing is assumed about how
scores hang on parameters: only stored answers are used.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.replay_ways import WAYS, Generation, Task
from benchmarks.search import DEMO, made
from benchmarks.search_parts import RacedTask, expected, race
from objectives.sampling import Floats, Sample
from storage.database.database import open_storage
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from study.cli.interrupts import Interrupts
from study.config.load import load_config
from study.search.genome import recipe_of
from study.search.schedule import Schedule
from study.search.state import slot_of
from study.search.stored_scores import answers_of
from study.setup.engine import choose_engine
from study.setup.setup import Setup
from study.worker.join import join_study


@dataclass(frozen=True)
class Scheduled:
    """Estimates from the sample that the product would ask this generation."""

    setup: Setup
    answers: ScoreStore
    records: Sequence[TrialRecord]
    number: int
    tasks: Sequence[Task]

    def __call__(
        self, share: float, soft: float, draw: int, blocks: int = 1, z: float = math.inf
    ) -> tuple[Floats, float]:
        """Raced where there are several blocks: a trial that after one of them is `z` errors below
        the mean of the generation before is asked no more."""
        schedule = Schedule(self.setup.search, self.answers, share, soft, draw)
        if share < 1:
            samples = schedule.samples(self.number, self.records)
        else:
            samples = {
                task.name: Sample(
                    np.arange(own.right_TQ.shape[1]),
                    np.ones(own.right_TQ.shape[1]),
                    own.before_right_TQ.mean(axis=0),
                    own.before_soft_TQ.mean(axis=0),
                )
                for task, own in zip(self.setup.search.tasks, self.tasks, strict=True)
            }
        rng, trials = np.random.default_rng(draw), range(len(self.tasks[0].right_TQ))
        raced: list[list[RacedTask]] = [[] for _ in trials]
        reference = 0.0
        for task, own in zip(self.setup.search.tasks, self.tasks, strict=True):
            sample = samples[task.name]
            expected_Q = expected(sample, soft)
            order_S = rng.permutation(len(sample.asked_S))
            ranked_TQ, before_TQ = own.ranked(soft)
            reference += own.weight * before_TQ.mean()
            for t in trials:
                raced[t].append(RacedTask(own.weight, ranked_TQ[t], expected_Q, sample, order_S))
        values_T, asked = np.empty(len(raced)), 0
        for t, tasks in enumerate(raced):
            values_T[t], parts = race(tasks, blocks, z, reference)
            asked += sum(len(part.asked_S) for part in parts)
        return values_T, asked / len(values_T)


def cma_weights(population: int) -> Floats:
    """Of the better half by rank, 0 for the others (Hansen 2016, equation 49)."""
    raw = np.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    raw = np.maximum(raw, 0.0)
    return raw / raw.sum()


def generations(folder: Path, config: Path) -> Iterator[Generation]:
    for path in sorted(folder.glob("*.db")):
        seed, trials = (int(word) for word in path.stem.split("-"))
        setup = made(load_config(config), {}, seed, trials)
        database = open_storage(f"sqlite:///{path}", create=False)
        study = find_study(database, setup.config.name)
        records = [r for r in Trials(database, study).all() if r.complete]
        answers = ScoreStore(database)
        by_generation = defaultdict(list)
        for record in records:
            if (place := slot_of(record)) is not None:
                by_generation[place.generation].append(record)
        baselines = [r for r in records if r.baseline is not None]
        before = baselines
        for number in sorted(by_generation):
            now = by_generation[number]
            tasks = []
            for task in setup.search.tasks:
                both = []
                for group in (now, before):
                    stored = answers.read_many([r.id for r in group], SEARCH)
                    for name in ("scores_Q", "soft_Q"):
                        rows = [getattr(stored[r.id][task.name], name) for r in group]
                        both.append(np.array(rows, dtype=np.float64))
                tasks.append(Task(task.weight, *both))
            held = answers.read_many([r.id for r in now], HELD_OUT)
            truth_T = np.array(
                [
                    sum(
                        t.weight * float(held[r.id][t.name].scores_Q.mean())
                        for t in setup.held_out.tasks
                    )
                    for r in now
                ]
            )
            yield Generation(tasks, truth_T, Scheduled(setup, answers, records, number, tasks))
            before = now


def replay(folder: Path, config: Path, draws: int) -> None:
    gains: Mapping[str, list[float]] = defaultdict(list)
    asked: Mapping[str, list[float]] = defaultdict(list)
    for place, generation in enumerate(generations(folder, config)):
        weights = cma_weights(len(generation.truth_T))
        for name, way in WAYS.items():
            found = []
            for draw in range(1 if name.startswith("all") else draws):
                values_T, count = way(generation, np.random.default_rng([place, draw]))
                order = np.argsort(-values_T, kind="stable")
                found.append(float(weights @ generation.truth_T[order] - generation.truth_T.mean()))
                asked[name].append(count / generation.questions)
            gains[name].append(100 * float(np.mean(found)))
        best = np.argsort(-generation.truth_T)
        gains["the true order"].append(
            100 * float(weights @ generation.truth_T[best] - generation.truth_T.mean())
        )
    measure = np.array(gains["all questions, accuracy"])
    print("| how trials are asked | questions | gain, points | to the measure, paired | ratio |")
    print("|---|---|---|---|---|")
    for name, values in gains.items():
        own = np.array(values)
        share = f"{np.mean(asked[name]):.0%}" if name in asked else "-"
        apart = own - measure
        cells = (_shown(own), _shown(apart), f"{own.mean() / measure.mean():.2f}")
        print(f"| {name} | {share} | {' | '.join(cells)} |")


def _shown(values: Floats) -> str:
    """Mean and standard error over generations."""
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def collect(given: argparse.Namespace) -> None:
    config = load_config(given.config)
    choice = choose_engine(config, given.engine)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        url = f"sqlite:///{given.folder}/{seed}-{given.trials}.db"
        setup = made(config, {}, seed, given.trials)
        with Interrupts() as stop, join_study(setup, url, choice, stop) as worker:
            worker.search(math.inf)
            for record in worker.trials.all():
                if slot_of(record) is None or worker.answers.read(record.id, HELD_OUT):
                    continue
                worker.engine.load(recipe_of(record, setup.genome))
                scores = setup.held_out.evaluate(worker.engine)
                worker.answers.write(
                    record.id, HELD_OUT, answers_of(scores, choice.signature, False)
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--config", type=Path, default=DEMO)
    parser.add_argument("--engine", help="in place of the config's")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=40)
    given = parser.parse_args()
    if given.collect:
        collect(given)
    else:
        replay(given.folder, given.config, given.draws)


if __name__ == "__main__":
    main()
