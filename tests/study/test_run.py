"""Tests of the commands as processes, with models, an engine, databases and signals."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from storage.database.database import open_storage
from storage.database.url import storage_url
from storage.processes import has_ended
from storage.scores import SEARCH, ScoreStore
from study.artifacts.export import choose, export_trial
from study.config.load import load_config
from study.search.genome import recipe_of
from study.setup.engine import choose_engine
from study.setup.setup import Setup, build
from study.verdict.judge import Judgement, judge
from tests.support.commands import (
    POPULATION,
    TRIALS,
    Change,
    command,
    records,
    search_of,
    shallow_models,
    start_run,
    wait_for,
    wait_for_true,
    workers_of,
    write_study,
)
from tests.support.databases import Server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run a study without interruption; return its config, its database URL and its output."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_study(folder)
    result = command("run", config, folder=folder)
    assert result.returncode == 0, result.stderr
    return config, f"sqlite:///{folder}/runs/demo/study.db", result.stdout


@pytest.fixture(scope="module")
def opened(whole: tuple[Path, str, str]) -> Setup:
    return build(load_config(whole[0]))


def test_a_run_prints_the_table_and_the_paths_of_the_merge_and_the_report(
    whole: tuple[Path, str, str],
) -> None:
    config, url, printed = whole
    merges = ("best uniform", "best trial", "mean of the top 2", "CMA mean")
    for name in ("base ", "parent numeric", "parent catalogue", *merges):
        assert f"│ {name}" in printed
    assert "multiple_choice" in printed
    assert (printed_path(printed, "merge", config.parent) / "model.safetensors").exists()
    assert printed_path(printed, "report", config.parent).is_file()
    assert len(search_of(url)) == TRIALS


def printed_path(printed: str, name: str, folder: Path) -> Path:
    """Return the path that the output of a run lists under a name."""
    [line] = [x for x in printed.split("\n") if x.startswith(f"{name}: ")]
    return folder / line.removeprefix(f"{name}: ")


def test_a_second_run_changes_nothing(whole: tuple[Path, str, str]) -> None:
    config, url, printed = whole
    before = len(records(url))
    written = modification_times(config.parent / "runs" / "demo")
    again = command("run", config, folder=config.parent)
    assert again.returncode == 0
    assert again.stdout == printed
    assert modification_times(config.parent / "runs" / "demo") == written
    assert "10 of 10 search trials finished" in again.stderr
    assert len(records(url)) == before


def modification_times(folder: Path) -> dict[str, int]:
    """Return the modification time of each file in a study's folder, except the database."""
    files = (path for path in folder.rglob("*") if "study.db" not in path.name)
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(
    ("database", "after"),
    [
        pytest.param("sqlite", 1, marks=pytest.mark.slow),
        ("sqlite", 14),
        pytest.param("sqlite", 21, marks=pytest.mark.slow),
        ("postgres", 11),
        pytest.param("postgres", 20, marks=pytest.mark.slow),
    ],
    indirect=["database"],
)
def test_a_killed_study_is_resumed_with_the_same_result(
    whole: tuple[Path, str, str], database: str, tmp_path: Path, after: int
) -> None:
    config = write_study(tmp_path)
    process = start_run(config, database)
    wait_for(process, database, after)
    process.kill()
    process.communicate()
    lost = [r for r in records(database) if not r.complete]
    assert len(lost) <= 1
    result = command("run", config, "--storage", database, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert search_of(database) == search_of(whole[1])
    assert without_numbers(result.stdout) == without_numbers(whole[2])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_ends_the_run_and_prints_how_to_resume_it(
    whole: tuple[Path, str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    config, url = write_study(tmp_path), f"sqlite:///{tmp_path}/s.db"
    process = start_run(config, url)
    wait_for(process, url, 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert f"study.run {config} --storage {url}" in err
    resume = err.split("to resume the study:\n")[1].split("\n")[0]
    states = [r.state.name for r in records(url)]
    assert "RUNNING" not in states
    assert states.count("FAIL") <= 1
    if number == signal.SIGINT:  # the command is the same after either signal
        pasted = subprocess.run(resume, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert pasted.returncode == 0, pasted.stderr
    else:
        assert command("run", config, "--storage", url, folder=tmp_path).returncode == 0
    assert search_of(url) == search_of(whole[1])


def test_a_timeout_ends_between_trials_and_a_smaller_budget_is_observed(tmp_path: Path) -> None:
    config, url = write_study(tmp_path), f"sqlite:///{tmp_path}/runs/demo/study.db"
    result = command("run", config, "--timeout", 0, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "run the same command to resume it" in result.stdout
    assert command("run", config, "--trials", 3, folder=tmp_path).returncode == 0
    assert len(search_of(url)) == 3
    status = command("status", config, folder=tmp_path)
    assert "search trials 3 of 3," in status.stdout
    report = command("report", config, "--json", folder=tmp_path)
    assert json.loads(report.stdout)["trials"]["budget"] == 3


def test_an_unreachable_database_ends_the_run_with_one_line(tmp_path: Path, server: Server) -> None:
    def short_outage(data: dict[str, Any]) -> None:
        data["study"]["outage_limit"] = 3

    process = start_run(write_study(tmp_path, short_outage), server.url)
    wait_for(process, server.url, 2)
    server.stop()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "error: the database failed: " in err
    assert "Traceback" not in err


def test_ctrl_c_ends_a_run_that_waits_for_its_database(tmp_path: Path, server: Server) -> None:
    process = start_run(write_study(tmp_path), server.url)
    wait_for(process, server.url, 2)
    server.stop()
    assert process.stderr is not None
    while "the database has been unavailable" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted by SIGINT" in err


def test_two_runs_of_one_study_share_its_work(
    whole: tuple[Path, str, str], tmp_path: Path, database: str
) -> None:
    config = write_study(tmp_path)
    both = [start_run(config, database) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert search_of(database) == search_of(whole[1])
    complete = [r for r in records(database) if r.complete]
    assert sum(r.kind != "candidate" for r in complete) == TRIALS + 9
    assert sum("joining" in err for _, err in ended) == 1


@pytest.mark.slow
def test_workers_of_one_host_share_its_work(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    config = write_study(tmp_path)
    result = command("run", config, "--workers", 2, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "0 of 10 search trials finished, 48 parameters, population 4" in result.stderr
    assert result.stderr.count("engine transformers on cpu") == 1
    assert search_of(f"sqlite:///{tmp_path}/runs/demo/study.db") == search_of(whole[1])
    assert without_numbers(result.stdout) == without_numbers(whole[2])


def without_numbers(text: str) -> str:
    """Remove trial numbers, which depend on the order in which workers start trials, and the
    database in the command that verifies the merge."""
    text = re.sub(r" --storage \S+", "", text)
    return re.sub(r"\((trial )?\d+\)|merge-\d+|[ │┃━─╇┏┓┡┩└┘┴┳┼]+", " ", text)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_worker_and_a_killed_worker_is_replaced(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    def long(data: dict[str, Any]) -> None:
        data["study"]["trials"] = 2000

    config, url = write_study(tmp_path, long), f"sqlite:///{tmp_path}/s.db"
    words = [sys.executable, "-m", "study.run", str(config), "--storage", url, "--workers", "2"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(process, url, 2)
    first = workers_of(url)
    os.kill(first[0].pid, signal.SIGKILL)
    wait_for_true(lambda: len(workers_of(url)) == 3)
    process.kill()
    _, err = process.communicate()
    assert "was killed by SIGKILL: restarting it" in err
    wait_for_true(lambda: all(has_ended(record.process) for record in workers_of(url)))
    wait_for_true(lambda: all(record.end is not None for record in workers_of(url)[1:]))


def test_status_shows_the_progress_of_a_study(whole: tuple[Path, str, str]) -> None:
    config, url, _ = whole
    status = json.loads(command("status", config, "--json", folder=config.parent).stdout)
    assert status["study"] == "demo"
    assert status["storage"] == url
    assert status["trials"] == {
        "complete": 9 + TRIALS + 2,
        "failed": 0,
        "interrupted": 0,
        "running": 0,
    }
    assert status["generation"] == TRIALS // POPULATION
    assert status["best"].keys() >= {"trial", "value", "tasks"}
    best = records(url)[status["best"]["trial"]]
    assert best.value == status["best"]["value"]
    assert best.tasks == status["best"]["tasks"]
    text = command("status", config, folder=config.parent).stdout
    assert f"best trial {best.number}" in text
    assert f"verdict after {TRIALS} search trials: No verdict is possible" in text


def test_an_exported_merge_has_exactly_the_scores_of_its_trial(
    whole: tuple[Path, str, str], opened: Setup, tmp_path: Path
) -> None:
    """The merge is loaded by transformers and asked the same questions."""
    config, url, _ = whole
    result = command("export", config, "--out", tmp_path / "m", folder=config.parent)
    assert result.returncode == 0, result.stderr
    printed, hint = result.stdout.splitlines()
    assert printed == str(tmp_path / "m")
    assert hint.startswith("next: ")
    assert hint.endswith(f" -m study.verify {printed}")
    from objectives.merge.recipe import MergeRecipe
    from objectives.models.sources import Sources

    storage = open_storage(url)
    final = choose(records(url), "final", judgement(url, opened))
    assert final.attributes["role"] == "mean of the top 2"
    engine = choose_engine(opened.config).start(Sources({"m": tmp_path / "m"}, "m"), 0)
    engine.load(MergeRecipe.single("m", 32))
    scores = opened.search.evaluate(engine)
    stored = ScoreStore(storage).read(final.id, SEARCH)
    for name, task in scores.tasks.items():
        assert (task.scores_Q == stored[name].scores_Q).all()
        assert (task.soft_Q == stored[name].soft_Q).all()
    assert scores.value == final.value


def judgement(url: str, setup: Setup) -> Judgement:
    return judge(setup, records(url), ScoreStore(open_storage(url)))


def test_an_exported_folder_is_complete(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    config, out = whole[0], tmp_path / "m"
    assert command("export", config, "--out", out, "--trial", 12, folder=config.parent).stdout
    assert AutoModelForCausalLM.from_pretrained(out).dtype.itemsize == 2
    assert AutoTokenizer.from_pretrained(out).encode("kettle")[1] > 3
    assert GenerationConfig.from_pretrained(out).eos_token_id == 2
    text = (out / "mergekit_config.yml").read_text()
    assert MergeConfiguration.model_validate(yaml.safe_load(text)).merge_method == "dare_ties"
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"][0] == "merge"
    assert len(yaml.safe_load(front)["base_model"]) == 4
    assert "| this merge (12)" in body
    assert "No verdict is possible" in body
    assert json.loads((out / "verdict.json").read_text())["exported"] == 12
    repeated = command("export", config, "--out", out, folder=config.parent)
    assert repeated.returncode == 2
    assert "already exists" in repeated.stderr
    overwritten = command("export", config, "--out", out, "--overwrite", folder=config.parent)
    assert overwritten.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    (out / "recipe.json").unlink()
    other = command("export", config, "--out", out, "--overwrite", folder=config.parent)
    assert other.returncode == 2
    assert "is not an exported merge" in other.stderr


def test_a_large_merge_is_written_in_shards_with_an_index(
    whole: tuple[Path, str, str], opened: Setup, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from objectives.export.export import export

    verdict, answers = judgement(whole[1], opened), ScoreStore(open_storage(whole[1]))
    best = choose(records(whole[1]), "best", verdict)
    recipe = recipe_of(best, opened.genome)
    one = export_trial(
        opened, best, records(whole[1]), tmp_path / "one", verdict, answers, whole[1]
    )
    many = export(
        recipe, opened.sources, opened.locations, tmp_path / "many", "card", shard_bytes=250_000
    )
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 4
    stored = load_file(one / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(many).state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in stored.items())


def test_a_changed_study_is_not_resumed(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    def reseed(data: dict[str, Any]) -> None:
        data["study"]["seed"] = 5
        data["space"] = {"weight": [0.0, 1.0]}

    config, url, _ = whole
    before = len(records(url))
    for words in (("run",), ("export", "--out", tmp_path / "m")):
        changed = write_study(tmp_path, reseed)
        result = command(words[0], changed, *words[1:], "--storage", url, folder=tmp_path)
        assert result.returncode == 2
        assert "seed: 0 stored, 5 now" in result.stderr
        assert "0.0 to 1.4 stored, 0.0 to 1.0 now" in result.stderr
        suggested = "with study.start_from: demo it begins where this one ended" in result.stderr
        assert suggested == (words == ("run",))
    assert len(records(url)) == before
    assert config.exists()


def test_the_budget_can_be_increased(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    def no_population(data: dict[str, Any]) -> None:
        del data["study"]["population"]
        data["study"]["trials"] = 1000

    shutil.copytree(whole[0].parent / "runs", tmp_path / "runs")
    config = write_study(tmp_path, no_population)
    result = command("run", config, "--trials", TRIALS + 1, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "population 4" in result.stderr


def test_different_settings_change_the_fingerprint(opened: Setup) -> None:
    from dataclasses import replace

    from study.search.genome import MergeGenome

    facts = opened.fingerprint(4)
    genome = opened.config.genome
    reordered = genome.model_copy(update={"models": genome.models[::-1]})
    other = MergeGenome(reordered, opened.config.space, 32)
    assert replace(opened, genome=other).fingerprint(4) != facts
    task = opened.config.tasks[0].model_copy(update={"weight": 0.8750004})
    config = opened.config.model_copy(update={"tasks": (task, *opened.config.tasks[1:])})
    assert replace(opened, config=config).fingerprint(4) != facts


@pytest.mark.slow
def test_the_folder_of_another_merge_is_not_kept(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    def reseed(data: dict[str, Any]) -> None:
        data["study"] |= {"seed": 1, "trials": 2}

    shutil.copytree(whole[0].parent / "runs", tmp_path / "runs")
    for folder in (tmp_path / "runs" / "demo").glob("merge-*"):
        for number in range(20):
            if not (copy := folder.with_name(f"merge-{number}")).exists():
                shutil.copytree(folder, copy)
        old = (folder / "recipe.json").read_text()
    url = f"sqlite:///{tmp_path}/other.db"
    config = write_study(tmp_path, reseed)
    result = command("run", config, "--storage", url, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    merge = printed_path(result.stdout, "merge", tmp_path)
    assert (merge / "recipe.json").read_text() != old


def test_a_signal_leaves_no_half_written_folder(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    words = ["export", str(whole[0]), "--out", str(tmp_path / "m")]
    process = subprocess.Popen(
        [sys.executable, "-m", f"study.{words[0]}", *words[1:]],
        cwd=whole[0].parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list(tmp_path.glob(".m.part-*")):
        time.sleep(0.002)
    process.terminate()
    process.communicate()
    assert process.returncode in (0, 143)
    assert not list(tmp_path.glob(".m*"))


def edit(path: str, value: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        section: Any = data
        for parent in parents:
            section = section[int(parent) if parent.isdigit() else parent]
        section[int(last) if last.isdigit() else last] = value

    return change


def damaged(tmp_path: Path, name: str) -> Path:
    """Return a model folder with one defect."""
    folder = Path(shutil.copytree(shallow_models() / "numeric", tmp_path / name))
    weights = folder / "model.safetensors"
    if name == "no-config":
        (folder / "config.json").unlink()
    elif name == "no-weights":
        weights.unlink()
    elif name == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif name == "list-config":
        (folder / "config.json").write_text("[]")
    elif name == "no-index":
        weights.rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text("[]")
    elif name == "bad-tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif name == "wider":
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["LlamaForCausalLM"]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-config", "no-config: .* has no config.json"),
        ("no-weights", "no-weights: .* has no .safetensors files"),
        ("truncated", "truncated: .*model.safetensors is not a complete safetensors file"),
        ("list-config", "list-config: .*config.json is not a mapping"),
        ("no-index", "no-index: .*index.json is not a mapping"),
        ("bad-tokenizer", "bad-tokenizer: cannot load the tokenizer of"),
        ("wider", r"wider: .*architectures \['LlamaForCausalLM'\] cannot be merged"),
    ],
)
def test_a_bad_model_folder_is_refused(tmp_path: Path, name: str, message: str) -> None:
    folder = damaged(tmp_path, name)
    check_refused(tmp_path, edit("genome.models.0", str(folder)), message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("genome.models.0", "./nowhere", r"\./nowhere: there is no folder"),
        ("genome.layer_granularity", 5, "5 does not divide the 8 layers"),
        ("tasks.0.data", "none.jsonl", "none.jsonl does not exist"),
        ("tasks.0.prompt", "none", "no template none"),
        ("study.storage", "postgresql://u:secret@127.0.0.1:1/x", "refused"),
        ("study.storage", "mysql://h/d", "only sqlite and postgresql"),
        ("engine", {"device": "nonsense"}, "nonsense"),
        ("engine", {"tensor_parallel_size": 3}, "cannot be split across 3 GPUs"),
        ("genome.models.0", "", "genome.models.0"),
        ("genome.models.0", "a\0b", r"the character U\+0000"),
        ("genome.filters", ["mlp", "rest"], "have the same parameters"),
        ("genome.filters", ["mlp", "self_atn"], "self_atn matches no tensor$"),
        (
            "genome.filters",
            ["mlp", "mlp.up"],
            "mlp.up matches no tensor that no earlier filter matches",
        ),
        ("study.start_from", "earlier", "start_from: earlier: there is no database"),
        ("space", {"t": [0, 1]}, "space.t: dare_ties has no t"),
        ("space", {"weight": [0, 1e9]}, "space.weight"),
        ("folder", "/nonexistent", "folder: unknown key"),
    ],
)
def test_invalid_input_is_reported_in_one_line_and_stores_nothing(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    check_refused(tmp_path, edit(path, value), message)


def check_refused(folder: Path, change: Change, message: str) -> None:
    import re

    result = command("run", write_study(folder, change), folder=folder)
    assert result.returncode == 2, result.stderr
    [line] = [text for text in result.stderr.split("\n") if text.startswith("error: ")]
    assert re.search(message, line)
    assert "Traceback" not in result.stderr
    assert "secret" not in result.stderr
    database = folder / "runs" / "demo" / "study.db"
    if database.exists():
        with sqlite3.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = "/proc/study.db"
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        target = f"{tmp_path}/locked/study.db"
    result = command(
        "run", write_study(tmp_path), "--storage", f"sqlite:///{target}", folder=tmp_path
    )
    assert result.returncode == 2
    assert "cannot use" in result.stderr


def test_the_dashboard_opens_a_study(whole: tuple[Path, str, str]) -> None:
    """The app is optuna-dashboard's, without the project's middleware."""
    import io

    from optuna_dashboard import wsgi

    app = wsgi(storage_url(whole[1], "demo", Path()))
    sent: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environ, lambda status, headers, _=None: sent.append(status)))
    assert sent == ["200 OK"]
    [summary] = json.loads(body)["study_summaries"]
    assert summary["study_name"] == "demo"
