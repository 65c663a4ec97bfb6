"""Studies that search by gradient: real engines, real databases, the commands as users run them."""

import json
import math
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import yaml

from objectives.merge.catalogue import METHODS
from storage.database.database import open_storage
from storage.gradients import GradientStore
from storage.studies import find_study
from storage.trials import BASELINE, TrialRecord, Trials
from study.cli.interrupts import Interrupts
from study.config.errors import ConfigError
from study.config.load import load_config
from study.config.ranges import default_range
from study.search.state import CANDIDATE
from study.setup.engine import choose_engine
from study.setup.setup import build
from study.worker.join import join_study
from tests.support.commands import command, records, search_of, start_run, wait_for
from tests.support.paths import DEMO

STEPS = 10


def tiny_study(
    folder: Path,
    family: Mapping[str, Path],
    method: str = "dare_ties",
    questions: int = 8,
    study: Mapping[str, object] = MappingProxyType({}),
    search: Mapping[str, object] = MappingProxyType({}),
    space: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """A study of tiny models of any merge method; by default it takes two steps."""
    rules = METHODS[method]
    genome = {
        "models": [str(family[name]) for name in ("x", "y", "z")[: rules.most]],
        "merge_method": method,
        "layer_granularity": 2,
    }
    if rules.base != "unused":
        genome["base_model"] = str(family["base"])
    lines = (DEMO / "questions" / "choice.jsonl").read_text().splitlines()[:questions]
    (folder / "choice.jsonl").write_text("\n".join(lines))
    task = {"name": "choice", "kind": "multiple_choice", "data": "choice.jsonl", "prompt": "plain"}
    data = {
        "genome": genome,
        "space": dict(space),
        "tasks": [task],
        "study": {"name": "demo", "trials": 2, "held_out": 0} | dict(study),
        "search": {"algorithm": "gradient", "steps": 2, "batch": 4} | dict(search),
        "engine": {"kind": "transformers", "threads": 1},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def longer_study(folder: Path, family: Mapping[str, Path]) -> Path:
    """A study of ten steps with a verdict."""
    return tiny_study(
        folder,
        family,
        questions=40,
        study={"trials": STEPS, "held_out": 0.5},
        search={"steps": STEPS, "batch": 6, "rate": 0.05},
    )


def gradients(url: str, ascents: int) -> Mapping[tuple[int, int], list[float]]:
    database = open_storage(url, create=False)
    try:
        study = find_study(database, "demo")
        store = GradientStore(database, study._study_id)
        return {
            (step, ascent): store.get(step, ascent).tolist()
            for step in range(STEPS)
            for ascent in range(ascents)
        }
    finally:
        database.engine.dispose()


def checkpoints(url: str) -> dict[str, tuple[Mapping[str, float], float | None]]:
    """Every other merge of a study, by name: baselines, checkpoints and final merges."""
    return {
        r.attributes.get(BASELINE) or r.attributes[CANDIDATE]: (r.params, r.value)
        for r in records(url)
        if r.complete and r.kind != "search"
    }


@pytest.fixture(scope="module")
def undisturbed(
    family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """The database of a study that ran without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    url = f"sqlite:///{folder}/study.db"
    done = command("run", longer_study(folder, family), "--storage", url, folder=folder)
    assert done.returncode == 0, done.stderr
    return url, done.stdout


def test_a_study_offers_its_checkpoints(undisturbed: tuple[str, str]) -> None:
    url, output = undisturbed
    steps = [r for r in records(url) if r.complete and r.kind == "search"]

    assert len(steps) == STEPS
    assert {r.attributes["generation"] for r in steps} == set(range(STEPS))
    assert "best checkpoint" in output
    assert "mean of the last steps" in output
    assert "No verdict" not in output
    assert re.search(r" is (not shown to be )?better than ", output)


def test_steps_lower_the_validation_loss(
    undisturbed: tuple[str, str],
) -> None:
    losses = {
        r.attributes["steps"]: r.attributes["result"]["kept_out_loss"]
        for r in records(undisturbed[0])
        if "ascent" in r.attributes
    }

    assert sorted(losses) == [4, 8, STEPS]
    assert losses[STEPS] < losses[4]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_that_is_killed_three_times_takes_the_same_steps(
    undisturbed: tuple[str, str], family: dict[str, Path], postgres: str, tmp_path: Path
) -> None:
    config = longer_study(tmp_path, family)
    done_before = 0
    for count in (11, 14, 18):
        process = start_run(config, postgres)
        wait_for(process, postgres, count)
        process.send_signal(signal.SIGKILL)
        process.wait()
        complete = sum(r.complete for r in records(postgres))
        assert complete >= max(count, done_before)
        done_before = complete
    final = command("run", config, "--storage", postgres, folder=tmp_path)
    assert final.returncode == 0, final.stderr

    url, _ = undisturbed
    assert search_of(postgres) == search_of(url)
    assert gradients(postgres, 1) == gradients(url, 1)
    assert checkpoints(postgres) == checkpoints(url)
    repeated = [r for r in records(postgres) if r.complete and r.kind == "search"]
    assert len(repeated) == STEPS


@pytest.mark.timeout(600)
def test_one_worker_and_three_take_the_same_steps(
    family: dict[str, Path], postgres: str, tmp_path: Path
) -> None:
    config = tiny_study(
        tmp_path,
        family,
        questions=24,
        study={"trials": 12, "held_out": 0.5},
        search={"ascents": 3, "steps": 4},
    )
    alone = f"sqlite:///{tmp_path}/alone.db"
    for url, workers in ((alone, 1), (postgres, 3)):
        words = ("run", config, "--storage", url, "--workers", workers)
        done = command(*words, folder=tmp_path)
        assert done.returncode == 0, done.stderr

    assert len(search_of(alone)) == 12
    assert search_of(postgres) == search_of(alone)
    assert checkpoints(postgres) == checkpoints(alone)


def searched(path: Path) -> list[TrialRecord]:
    """Run a study to its end in this process, and return its complete trials."""
    config, url = load_config(path), f"sqlite:///{path.parent}/study.db"
    choice = choose_engine(config, "transformers")
    with join_study(build(config, check_values=False), url, choice, Interrupts()) as worker:
        assert worker.search(math.inf)
    database = open_storage(url, create=False)
    try:
        return [r for r in Trials(database, find_study(database, "demo")).all() if r.complete]
    finally:
        database.engine.dispose()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_steps_or_has_nothing_to_search(
    method: str, family: dict[str, Path], tmp_path: Path
) -> None:
    complete = searched(tiny_study(tmp_path, family, method))
    steps = [r for r in complete if r.kind == "search"]
    if any(default_range(method, p.name) for p in METHODS[method].parameters):
        first, second = sorted(steps, key=lambda r: r.attributes["generation"])
        assert first.params != second.params
        assert all(math.isfinite(r.attributes["result"]["loss"]) for r in steps)
    else:
        assert not steps


@pytest.mark.parametrize(
    ("method", "parameter", "reason"),
    [
        ("multislerp", "eps", "it guards a division and moves no weight"),
        ("karcher", "tol", "it decides when an iteration stops"),
    ],
)
def test_a_parameter_without_a_derivative_is_refused_by_name(
    method: str,
    parameter: str,
    reason: str,
    family: dict[str, Path],
    tmp_path: Path,
) -> None:
    path = tiny_study(tmp_path, family, method, space={parameter: [0.1, 0.2]})
    with pytest.raises(ConfigError, match=rf"space.{parameter}.*gradient.*{reason}"):
        build(load_config(path), check_values=False)


def test_models_outside_slerps_pair_are_announced(
    family: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(load_config(tiny_study(tmp_path, family, "slerp")), check_values=False)

    assert "slerp merges the two models with the highest t" in caplog.text


def test_negative_weights_of_tasks_store_probabilities(
    family: dict[str, Path], tmp_path: Path
) -> None:
    path = tiny_study(tmp_path, family, "linear")
    data = yaml.safe_load(path.read_text())
    data["tasks"][0]["weight"] = -1.0
    path.write_text(json.dumps(data))
    for record in searched(path):
        if record.kind == "search":
            assert -1.0 <= record.attributes["result"]["objective"] <= 0.0
            assert record.attributes["result"]["loss"] == pytest.approx(
                -record.attributes["result"]["objective"], abs=1e-6
            )


def test_a_budget_below_the_steps_is_shared_by_the_ascents_and_ends_with_a_verdict(
    family: dict[str, Path], tmp_path: Path
) -> None:
    def path(**search: int) -> Path:
        rules = {"steps": STEPS, "ascents": 2, "batch": 6} | search
        study = {"trials": 5, "held_out": 0.5}
        return tiny_study(tmp_path, family, questions=40, study=study, search=rules)

    done = command("run", path(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No verdict" not in done.stdout
    status = json.loads(command("status", path(), "--json", folder=tmp_path).stdout)
    assert status["search_trials"] == {"finished": 5, "budget": 5}
    url = f"sqlite:///{tmp_path}/runs/demo/study.db"
    names = checkpoints(url)
    assert {"checkpoint after step 3 of ascent 0", "checkpoint after step 2 of ascent 1"} <= {
        *names
    }
    scores = {name: value for name, (_, value) in names.items() if "of 5 steps" in name}
    scores |= {n: v for n, (_, v) in names.items() if n.startswith("uniform")}
    assert status["best"]["value"] == max(scores.values())  # no checkpoint: those ask few questions
    refused = command("run", path(ascents=3), folder=tmp_path)
    assert refused.returncode == 2
    assert "population: 2 stored, 3 now" in refused.stderr
    assert "restore these settings" in refused.stderr


@pytest.mark.parametrize(
    ("method", "algorithm"), [("model_stock", "gradient"), ("karcher", "cmaes")]
)
def test_a_method_without_parameters_ends_with_its_baselines(
    method: str, algorithm: str, family: dict[str, Path], tmp_path: Path
) -> None:
    path = tiny_study(tmp_path, family, method, questions=60, study={"held_out": 0.5})
    if algorithm == "cmaes":
        data = yaml.safe_load(path.read_text())
        del data["search"]
        path.write_text(yaml.safe_dump(data))
    done = command("run", path, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert "is a uniform merge: it needs no search" in done.stdout
    assert (tmp_path / "runs/demo/report/index.html").exists()
    assert [*(tmp_path / "runs/demo").glob("merge-*")]


@pytest.mark.parametrize(
    ("study", "search", "message"),
    [
        ({"population": 4}, {}, "study.population: has no effect with search.algorithm: gradient"),
        ({"sigma": 0.2}, {}, "study.sigma: has no effect"),
        ({"start_from": "other"}, {"start": "x"}, "search.start: cannot be combined with study."),
        ({}, {"start": "w"}, "search.start: w is not among the models of the merge, x, y, z"),
        ({"trials": 3}, {"ascents": 5}, "study.trials: 3 is less than search.ascents, 5"),
        ({}, {"batch": 7}, "search.batch: 7 is more than the 6 questions that steps can ask"),
        ({}, {"batch": 2, "validation": 0.99}, "search.batch: 2 is more than the 1 questions"),
        ({}, {"soft": 0}, "search.soft: has no effect"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(
    study: dict[str, object],
    search: dict[str, object],
    message: str,
    family: dict[str, Path],
    tmp_path: Path,
) -> None:
    path = tiny_study(tmp_path, family, study=study, search=search)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        build(load_config(path), check_values=False)


def test_validation_is_mentioned_only_if_questions_are_left_for_it(
    family: dict[str, Path], tmp_path: Path
) -> None:
    path = tiny_study(tmp_path, family, search={"batch": 7})
    with pytest.raises(ConfigError, match="the others of the 8 search questions are for valid"):
        build(load_config(path), check_values=False)
    path = tiny_study(tmp_path, family, questions=1, search={"batch": 2})
    with pytest.raises(ConfigError, match=r"more than the 1 questions that steps can ask$"):
        build(load_config(path), check_values=False)
    path = tiny_study(tmp_path, family, questions=1, search={"batch": 1})
    setup = build(load_config(path), check_values=False)
    assert setup.rules.ranking_text == "each step follows the gradient of 1 questions of 1"


def test_an_ascent_starts_at_a_model(family: dict[str, Path], tmp_path: Path) -> None:
    path, url = tiny_study(tmp_path, family, search={"start": "y"}), f"sqlite:///{tmp_path}/s.db"
    done = command("run", path, "--storage", url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (r.params for r in records(url) if r.kind == "search")
    assert {name: value for name, value in first.items() if name.endswith("/weight")} == {
        name: float(name.startswith("y/")) for name in first if name.endswith("/weight")
    }
    assert {value for name, value in first.items() if name.endswith("/density")} == {1.0}
    moved = [name for name, value in second.items() if name.startswith("x/") and value]
    assert moved, "the other models' weights can grow from 0"

    path.write_text(path.read_text().replace("start: y", "start: x"))
    refused = command("run", path, "--storage", url, folder=tmp_path)
    assert refused.returncode == 2
    assert "search.start: y stored, x now" in refused.stderr


def test_a_method_without_weights_cannot_start_at_a_model(
    family: dict[str, Path], tmp_path: Path
) -> None:
    path = tiny_study(tmp_path, family, method="slerp", search={"start": "x"})
    with pytest.raises(ConfigError, match=r"search\.start: the search over slerp has no weights"):
        build(load_config(path), check_values=False)


def test_searches_of_either_kind_continue_each_other(
    family: dict[str, Path], tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    url, _ = undisturbed
    ours = f"sqlite:///{tmp_path}/s.db"
    (tmp_path / "s.db").write_bytes(Path(url.removeprefix("sqlite:///")).read_bytes())
    path = longer_study(tmp_path, family)
    data = yaml.safe_load(path.read_text())
    earlier = [r.params for r in records(url) if r.complete and r.kind == "search"]
    last = earlier[-2:]  # a quarter of ten steps

    data["study"] |= {"name": "coarse", "start_from": "demo", "population": 4, "trials": 40}
    path.write_text(yaml.safe_dump(data | {"search": {"algorithm": "cmaes"}}))
    done = command("run", path, "--storage", ours, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    centre = {name: (last[0][name] + last[1][name]) / 2 for name in last[0]}
    scored = [r.params for r in records(ours, "coarse") if r.kind == "search"][:4]
    assert max(abs(params[name] - centre[name]) for params in scored for name in centre) < 0.7

    search = {"algorithm": "gradient", "steps": 2, "batch": 6}
    data["study"] |= {"name": "fine", "start_from": "coarse", "trials": 2}
    del data["study"]["population"]
    path.write_text(yaml.safe_dump(data | {"search": search}))
    done = command("run", path, "--storage", ours, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated = [r for r in records(ours, "coarse") if r.complete and r.kind == "search"]
    top = sorted(evaluated, key=lambda r: -r.objective)[:4]
    first = next(r.params for r in records(ours, "fine") if r.kind == "search")
    for name, value in first.items():
        assert value == pytest.approx(sum(r.params[name] for r in top) / 4, abs=1e-5)


def test_stored_gradients_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    from storage.claims import Claims
    from storage.gradients import StoredGradient
    from storage.studies import create_study

    database = open_storage(f"sqlite:///{tmp_path}/study.db")
    study = create_study(database, "demo")
    values = np.random.default_rng(0).normal(size=7) * 10.0 ** np.arange(-3, 4)
    names = [f"p{n}" for n in range(7)]
    gradient = StoredGradient(3, 1, dict(zip(names, values.tolist(), strict=True)))
    claims = Claims(database, study._study_id, "me")
    trial = claims.start("step", {}, {}, {"generation": 3, "slot": 1})
    claims.finish(trial, 0.5, {}, {}, {}, gradient)

    assert GradientStore(database, study._study_id).get(3, 1).tolist() == values.tolist()
    database.engine.dispose()
