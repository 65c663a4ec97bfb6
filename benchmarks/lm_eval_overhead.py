"""What a trial with a task of lm-eval costs beside merge and engine, and what lm-eval itself takes
to build, tokenise and score the same.

    python -m benchmarks.lm_eval_overhead [--questions 2000] [--trials 20]

Ours is the real worker on SQLite with the demo's 48 parameters; at the engine's seam stands one
that answers with random tokens and log-probabilities, whose time is left out. lm-eval is asked as
mergekit-evolve asks it for every trial (simple_evaluate by the tasks' names), with a model that
answers at once. No error bars by bootstrap in either.
"""

import argparse
import contextlib
import io
import itertools
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from objectives.engines.engine import Answer, Prompt
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.models.tokenizer import load_tokenizer
from objectives.tasks.lm_eval.prompts import RequestConverter
from storage.trials import TrialRecord
from study.cli.interrupts import Interrupts
from study.config.load import load_config
from study.monitors.monitor import Monitor
from study.setup.engine import EngineChoice
from study.setup.setup import build
from study.worker.join import join_study

DEMO = Path(__file__).parent.parent / "examples" / "demo"
HOOK = """
def graded(doc, results):
    return {"acc": float(results[0].strip()[:1] == str(doc["output_field"]))}
"""
COMMON = {
    "dataset_path": "json",
    "test_split": "train",
    "doc_to_text": "{{input_field}}",
    "doc_to_target": "{{output_field}}",
}
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "four options, a template": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["0", "1", "2", "3"],
        "doc_to_target": "output_field",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "one token, a hook": {
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": 1, "until": []},
        "process_results": "!function hooks.graded",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "eight tokens, a regex, exact_match": {
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": 8, "until": ["soap"]},
        "filter_list": [
            {
                "name": "none",
                "filter": [
                    {"function": "regex", "regex_pattern": "([0-3])"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
}


class RandomEngine:
    """At the engine's seam: any answers, and how long they took to make up."""

    def __init__(self, rows: int) -> None:
        self.seconds: list[float] = []
        self._rows, self._draw = rows, random.Random(0)

    def load(self, recipe: MergeRecipe) -> None:
        pass

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        began = time.perf_counter()
        made = [self._answer(prompt) for prompt in prompts]
        self.seconds.append(time.perf_counter() - began)
        return made

    def close(self) -> None:
        pass

    def _answer(self, prompt: Prompt) -> Answer:
        tokens = tuple(self._draw.randrange(4, self._rows) for _ in range(prompt.max_tokens))
        return Answer(tokens, tuple(-self._draw.random() for _ in prompt.options))


class RandomChoice(EngineChoice):
    def start(self, sources: Sources, longest: int) -> Any:
        return RandomEngine(200)


class Instant(RequestConverter):
    """A model of lm-eval's that answers at once, after tokenising as ours do."""

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[Any]:
        return [(-float(len(tokens)), False) for _, _, tokens in requests]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            self._for_generation(request.args[0])
        return ["0"] * len(requests)


def write(folder: Path, name: str, fields: dict[str, Any], questions: int) -> Path:
    """A task's file, its documents, and a study that asks it; gives the study's file."""
    rows = [json.loads(line) for line in (DEMO / "questions" / "choice.jsonl").open()]
    made = [
        {**rows[i % len(rows)], "input_field": f"{i} {rows[i % len(rows)]['input_field']}"}
        for i in range(questions)
    ]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, made)))
    (folder / "hooks.py").write_text(HOOK)
    kwargs = {"data_files": str(folder / "all.jsonl"), "cache_dir": str(folder / "cache")}
    task = COMMON | fields | {"task": "timed", "dataset_kwargs": kwargs}
    text = yaml.safe_dump(task).replace("'!function hooks.graded'", "!function hooks.graded")
    (folder / "timed.yaml").write_text(text)
    demo = yaml.safe_load((DEMO / "study.yaml").read_text())
    genome = demo["genome"]
    genome["models"] = [str(DEMO / model) for model in genome["models"]]
    genome["base_model"] = str(DEMO / genome["base_model"])
    metric = f"{fields['metric_list'][0]['metric']},none"
    asked = {"name": "timed", "metric": metric}
    study = {"genome": genome, "tasks": [asked], "study": {"held_out": 0, "trials": 1000}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


class Clock(Monitor):
    """Notes when trials were read."""

    def __init__(self, ends: list[float]) -> None:
        self._ends = ends

    def on_trials(self, records: Sequence[TrialRecord]) -> None:
        self._ends.append(time.perf_counter())


def ours(path: Path, trials: int) -> tuple[float, float]:
    """Seconds to set a study up, and of a trial beside merge and engine."""
    began = time.perf_counter()
    config = load_config(path, [path.parent]).with_trials(trials)
    setup = build(config, check_values=False)
    ready = time.perf_counter() - began
    choice = RandomChoice("transformers", "cpu", "float32", 4096)
    with (
        Interrupts() as interrupts,
        join_study(setup, f"sqlite:///{path.parent}/study.db", choice, interrupts) as worker,
    ):
        ends = [time.perf_counter()]
        worker.monitor = Clock(ends)
        worker.search(float("inf"))
        engine: Any = worker.engine
        whole = [after - before for before, after in itertools.pairwise(ends)]
        beside = [w - e for w, e in zip(whole, engine.seconds, strict=True)]
    return ready, statistics.median(beside[1:])


def lm_evals(path: Path, metric: str, times: int = 3) -> float:
    """Seconds of one evaluation, the model's own time left out."""
    tokenizer = load_tokenizer("base", DEMO / "models" / "base")
    model = Instant(tokenizer, 256)
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        with contextlib.redirect_stderr(io.StringIO()):
            found = lm_eval.simple_evaluate(
                model, tasks=["timed"], task_manager=manager, log_samples=False, bootstrap_iters=0
            )
        spent.append(time.perf_counter() - began)
        assert metric in found["results"]["timed"]
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    print("| task | study set up, s | a trial beside merge and engine, s | lm-eval itself, s |")
    print("|---|---|---|---|")
    for name, fields in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), name, fields, given.questions)
            ready, beside = ours(path, given.trials)
            metric = f"{fields['metric_list'][0]['metric']},none"
            theirs = lm_evals(path, metric)
        print(f"| {name} | {ready:.1f} | {beside:.3f} | {theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
