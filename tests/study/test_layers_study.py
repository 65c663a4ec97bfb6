"""Studies of kind `layers`: real engines, real databases, the commands as users run them."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from storage.database.database import open_storage
from storage.studies import find_study
from storage.trials import TrialRecord
from study.config.errors import ConfigError
from study.config.load import load_config
from study.search.state import CANDIDATE
from study.setup.setup import build
from tests.support.commands import (
    POPULATION,
    TRIALS,
    command,
    records,
    search_of,
    start_run,
    wait_for,
    write_study,
)


def layers_study(folder: Path, **genome: object) -> Path:
    """Write a study of paths through the demo's shallow models."""

    def change(data: dict[str, Any]) -> None:
        models = data["genome"]["models"]
        data["genome"] = {"kind": "layers", "models": models, "max_hops": 10, **genome}
        data["engine"] = {"kind": "transformers", "threads": 1}
        del data["tasks"][1]

    return write_study(folder, change)


def merges_of(url: str) -> dict[str, tuple[dict[str, float], float | None]]:
    """Return the parameters and the score of each final merge, by name."""
    complete = [r for r in records(url) if r.complete and CANDIDATE in r.attributes]
    return {r.attributes[CANDIDATE]: (dict(r.params), r.value) for r in complete}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran without interruption."""
    folder = tmp_path_factory.mktemp("layers")
    done = command("run", layers_study(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "No verdict" not in done.stdout
    assert re.search(r" is (not shown to be )?better than ", done.stdout)
    return folder


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/runs/demo/study.db"


def final_merge(folder: Path) -> Path:
    [merge] = (folder / "runs/demo").glob("merge-*")
    return merge


def of_search(folder: Path) -> list[TrialRecord]:
    return [r for r in records(url_of(folder)) if r.complete and r.kind == "search"]


def test_a_study_searches_paths(undisturbed: Path) -> None:
    search = of_search(undisturbed)
    assert len(search) == TRIALS
    assert len({tuple(record.params.values()) for record in search}) == TRIALS

    report = json.loads((undisturbed / "runs/demo/report/report.json").read_text())
    path = report["path"]
    assert report["merge"] is None
    assert path["num_layers"] == 8
    assert len(path["scores"]) == TRIALS
    assert 1 <= len(path["hops"]) <= 10
    assert path["hops"][0]["layer"] == 0
    page = (undisturbed / "runs/demo/report/index.html").read_text()
    assert "path through the layers" in page
    assert "All layers, in their order" in page
    for name in ("path", "depth"):
        assert (undisturbed / f"runs/demo/report/{name}.png").stat().st_size > 1000


def test_the_final_merge_answers_as_in_the_study(undisturbed: Path) -> None:
    folder = final_merge(undisturbed)
    done = command("verify", folder, folder=undisturbed)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^(\d+) of \1 answers equal$", done.stdout, re.MULTILINE)

    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == len(recipe["hops"])
    card = (folder / "README.md").read_text()
    assert re.search(rf"(A path of|The) {len(recipe['hops'])} layers (through|of) ", card)
    assert "lists the layers of the path" in card


def test_every_trial_can_be_exported(undisturbed: Path) -> None:
    config = undisturbed / "study.yaml"
    parent = next(r for r in records(url_of(undisturbed)) if r.kind == "parent")
    for record in (parent, of_search(undisturbed)[-1]):
        out = undisturbed / f"trial-{record.number}"
        words = ("export", config, "--out", out, "--trial", record.number)
        done = command(*words, folder=undisturbed)
        assert done.returncode == 0, done.stderr
        checked = command("verify", out, folder=undisturbed)
        assert checked.returncode == 0, checked.stdout
    card = (undisturbed / f"trial-{parent.number}" / "README.md").read_text()
    assert re.search(rf"^A copy of .*{parent.baseline}: trial {parent.number} of", card, re.M)
    assert "the seed of its random masks" in card


def test_optuna_stores_the_names_of_layers(undisturbed: Path) -> None:
    storage = open_storage(url_of(undisturbed), create=False)
    try:
        trials = find_study(storage, "demo").get_trials()
    finally:
        storage.engine.dispose()
    names = {t.params[n] for t in trials for n in t.params if n.endswith("/layer")}
    assert "none" in names
    assert any(re.fullmatch(r"numeric \d", str(name)) for name in names)


@pytest.mark.timeout(600)
def test_a_study_that_is_killed_proposes_the_same_paths(
    undisturbed: Path, postgres: str, tmp_path: Path
) -> None:
    config = layers_study(tmp_path)
    process = start_run(config, postgres)
    wait_for(process, postgres, 9)  # three models and the first generation
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = command("run", config, "--storage", postgres, "--workers", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr

    assert search_of(postgres) == search_of(url_of(undisturbed))
    expected = merges_of(url_of(undisturbed))
    found = merges_of(postgres)
    assert {name: found[name] for name in expected} == expected


def test_the_penalty_lowers_the_rank_but_not_the_score(tmp_path: Path) -> None:
    config = layers_study(tmp_path, hop_penalty=0.5, max_hops=24)
    done = command("run", config, "--trials", POPULATION, folder=tmp_path)
    assert done.returncode == 0, done.stderr

    genome = build(load_config(config), check_values=False).genome
    lengths = set()
    for record in of_search(tmp_path):
        length = len(genome.recipe(record.params).to_dict()["hops"])
        soft = record.attributes["result"]["soft"]
        assert record.objective == pytest.approx(soft - 0.5 * (length - 8))
        assert record.value == pytest.approx(0.875 * record.tasks["multiple_choice"])
        lengths.add(length)
    assert len(lengths) > 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_hops", 11),
        ("window", 2),
        ("repeats", 1),
        ("hop_penalty", 0.1),
        ("fix_ends", False),
        ("scale_layers", False),
    ],
)
def test_another_limit_of_paths_is_another_study(key: str, value: object, tmp_path: Path) -> None:
    first, second = (
        build(load_config(layers_study(tmp_path, **fields)), check_values=False).fingerprint(4)
        for fields in ({}, {key: value})
    )
    changed = {name for name in first | second if first.get(name) != second.get(name)}
    assert {name for name in changed if not name.startswith("space ")} == {key}


def test_plan_says_what_depth_costs(undisturbed: Path) -> None:
    done = command("plan", undisturbed / "study.yaml", folder=undisturbed)
    assert done.returncode == 0, done.stderr
    assert re.search(r"score by depth: 8 layers .* s, 10 layers .* s", done.stdout)
    assert "layer_granularity" not in done.stdout
    assert "source numeric" not in done.stdout  # transformers holds the models, and no other copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genome": {"kind": "layer"}}, 'genome.kind: must be weights or layers, not "layer"'),
        ({"genome": {"max_hop": 3}}, "genome.max_hop: unknown key; did you mean max_hops?"),
        ({"genome": {"max_hops": 7}}, "genome.max_hops: must be at least the 8 layers"),
        ({"genome": {"merge_method": "ties"}}, "genome.merge_method: unknown key"),
        ({"genome": {"models": []}}, "genome.models: at least one model is needed"),
        ({"genome": {"tokenizer_source": "q"}}, "genome.tokenizer_source: q is not valid"),
        ({"search": {"algorithm": "gradient"}}, "search.algorithm: gradient: is not supported"),
        ({"study": {"start_from": "other"}}, "study.start_from: is not supported with genome.kind"),
        ({"random_init": True}, "random_init: is not supported with genome.kind: layers"),
        ({"space": {"density": [0.1, 1]}}, "space.density: is not supported with genome.kind"),
        ({"space": {"scale": [2, 1]}}, "space.scale: low 2 must be below high 1"),
        ({"max_hops": 3}, "max_hops: is not a top-level key; use genome.max_hops"),
    ],
)
def test_bad_settings_are_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = layers_study(tmp_path)
    data = yaml.safe_load(path.read_text())
    for key, value in change.items():
        data[key] = data.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(load_config(path), check_values=False)


def test_one_model_can_repeat_its_own_layers(tmp_path: Path) -> None:
    path = layers_study(tmp_path)
    data = yaml.safe_load(path.read_text())
    data["genome"]["models"] = data["genome"]["models"][:1]
    data["study"]["trials"] = POPULATION
    path.write_text(yaml.safe_dump(data))
    done = command("run", path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
