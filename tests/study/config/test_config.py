import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.config.errors import ConfigError
from study.config.load import load_config
from study.search.genome import MergeGenome
from tests.support.paths import DEMO

EXAMPLES = sorted(p for p in DEMO.parent.rglob("*.yaml") if "genome:" in p.read_text())


def study(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "genome": {
            "models": ["a", "b"],
            "base_model": "c",
            "merge_method": "dare_ties",
            "layer_granularity": 4,
        },
        "tasks": [{"name": "t", "weight": 0.5, "kind": "multiple_choice", "data": "q.jsonl"}],
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = data
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return data


def load(tmp_path: Path, data: Any) -> Any:
    path = tmp_path / "study.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return load_config(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.parent.name)
def test_every_example_is_a_valid_study(path: Path) -> None:
    config = load_config(path)
    assert sum(task.weight for task in config.tasks) == 1


def test_the_track_2_example_has_its_models_and_tasks() -> None:
    config = load_config(DEMO.parent / "track2" / "study.yaml")
    assert [m.split("/")[1] for m in config.genome.models] == [
        "MetaMath-Mistral-7B",
        "Starling-LM-7B-beta",
        "Infinity-Instruct-3M-0613-Mistral-7B",
    ]
    assert config.genome.layer_granularity == 4
    assert config.genome.allow_negative_weights
    assert [(t.name, t.weight) for t in config.tasks] == [
        ("multiple_choice_kdd", 0.875),
        ("retrieval_kdd", 0.125),
    ]
    assert config.study.trials == 1000
    assert config.study.storage is not None
    assert config.study.storage.startswith("postgresql")


def test_a_config_is_frozen_and_stores_its_folder(tmp_path: Path) -> None:
    config = load(tmp_path, study())
    assert config.folder == tmp_path
    assert config.name == "study"
    with pytest.raises(Exception, match="frozen"):
        config.limit = 3


def test_a_mergekit_evolve_file_is_a_study_if_its_tasks_exist(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "shop.yaml").write_text("kind: retrieval\ndata: q.jsonl\n")
    config = load(
        tmp_path,
        "genome:\n  models: [a, b]\n  merge_method: linear\n  layer_granularity: 8\n"
        "tasks:\n  - shop\n  - name: other\n    weight: 0.5\n    metric: acc,none\n"
        "    kind: multiple_choice\n    data: o.jsonl\nlimit: 50\nnum_fewshot: 2\nshuffle: true\n"
        "random_init: true\n",
    )
    assert config.tasks[0].data == tmp_path / "tasks" / "q.jsonl"
    assert config.tasks[0].weight == 1.0
    assert config.tasks[1].data == tmp_path / "o.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genome__layer_granularty": 4}, "layer_granularty: unknown key; did you mean layer_gra"),
        ({"study__trails": 4}, "study.trails: unknown key; did you mean trials?"),
        ({"limits": 4}, "limits: unknown key; did you mean limit?"),
        ({"genome__models": ["a"]}, "genome.models: at least 2 models are needed, not 1"),
        ({"genome__models": ["a", "a"]}, "genome.models: a is listed twice"),
        ({"genome__base_model": None}, "base_model: is required by dare_ties"),
        ({"genome__merge_method": "dare_tie"}, "unknown method dare_tie; did you mean dare_ties?"),
        ({"genome__layer_granularity": -1}, "genome.layer_granularity"),
        ({"tasks": []}, "tasks: at least one task is needed"),
        ({"tasks": "shop"}, "tasks"),
        ({"tasks": [{"name": "t", "kind": "choice", "data": "q"}]}, "kind"),
        ({"tasks": [{"name": "t", "kind": "retrieval"}]}, "data: must name a question file"),
        (
            {"tasks": [{"name": "t", "kind": "lm_eval", "data": "q"}]},
            "data: is not used for tasks of lm-eval",
        ),
        ({"tasks": [{"name": "t", "prompt": "plain"}]}, "prompt: is not used for tasks of lm-eval"),
        (
            {"tasks": [{"name": "t", "kind": "retrieval", "data": "q", "metric": "f1"}]},
            "metric: must be acc,none",
        ),
        ({"tasks": [{"name": "t", "kind": "retrieval", "data": "q", "weight": "x"}]}, "weight"),
        ({"tasks": [{"name": "t", "kind": "retrieval", "data": "q", "weight": True}]}, "weight"),
        ({"tasks": [{"name": "t", "kind": "retrieval", "data": "q", "weight": 0}]}, "all weights"),
        ({"tasks": [{"name": "t", "kind": "retrieval", "data": "q"}] * 2}, "t is listed twice"),
        ({"space__weight": [1, 0]}, "low 1 must be below high 0"),
        ({"space__weight": [1]}, r"must be \[low, high\]"),
        ({"space__weight": [-1, 1]}, "needs genome.allow_negative_weights"),
        ({"space__weight": {"low": 0, "high": 1, "start": 2}}, "start 2 is outside 0 to 1"),
        ({"space__density": [0, 1]}, "must be above 0"),
        ({"space__density": [0.5, 1.5]}, "at most 1"),
        ({"space__epsilon": [0, 0.3]}, "space.epsilon: dare_ties has no epsilon"),
        ({"space__epsilom": [0, 0.3]}, "space.epsilom: unknown key; did you mean epsilon?"),
        ({"genome__tokenizer_source": "model:a"}, "write the model without `model:`"),
        ({"genome__tokenizer_source": "d"}, "d is not valid; must be one of base, union, a,"),
        ({"genome__parameters": {"rescale": False}}, "parameters.rescale: dare_ties always resc"),
        ({"genome__parameters": {"int8_mask": False}}, "parameters.int8_mask: is always true"),
        ({"genome__parameters": {"normalize": False}}, "is set by genome.normalize"),
        ({"genome__parameters": {"dense": 1}}, "unknown parameter; did you mean density?"),
        (
            {"genome__parameters": {"density": 0.5}, "space__density": [0.5, 1]},
            "cannot be searched",
        ),
        ({"genome__parameters": {"density": 0}}, "parameters.density: must be above 0 and at mos"),
        ({"study__trials": 0}, "study.trials"),
        ({"study__held_out": 1.0}, "study.held_out"),
        ({"study__seed": True}, "must be a number"),
        ({"study__name": "a b"}, r"study.name: 'a b' must consist of letters, digits"),
        ({"study__name": "."}, r"study.name: '\.' is reserved"),
        ({"study__name": ".."}, r"study.name: '\.\.' is reserved"),
        ({"study__name": "a/b"}, "study.name"),
        ({"study__name": ""}, "study.name"),
        ({"study__name": "a\x1b[31m"}, r"line \d+: a text contains the character U\+001B"),
        ({"study__name": "a\n"}, "study.name"),
        ({"study__name": "模" * 86}, "study.name: .* longer than 255 bytes"),
        ({"study__start_from": "study"}, "study.start_from: study is the study itself"),
        ({"study__sigma": math.nan}, "study.sigma: must be a finite number"),
        ({"apply_chat_template": True}, "is not supported by native tasks such as t"),
        ({"engine__kind": "onnx"}, "engine.kind"),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, study(**changes))
    assert "study.yaml" in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("name", ["a-1.2+x_y", "模型", "हिन्दी", "...", "x" * 255])
def test_names_of_folders_are_valid_names(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, study(study__name=name)).name == name


@pytest.mark.parametrize("stem", ["my study", ".", "a:b", "x\x1b[2J"])
def test_a_file_name_that_cannot_name_a_study_is_refused(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text(yaml.safe_dump(study()))
    with pytest.raises(ConfigError, match=r"study.name is not set, and the file's name") as caught:
        load_config(path)
    assert "set study.name, or rename the file" in str(caught.value)
    assert "pattern" not in str(caught.value)
    path.write_text(yaml.safe_dump(study(study__name="s")))
    assert load_config(path).name == "s"


def test_a_study_without_a_name_has_the_name_of_its_file(tmp_path: Path) -> None:
    assert load(tmp_path, study(study__name=None)).name == "study"


@pytest.mark.parametrize(
    "line",
    [
        'storage: "postgresql://u:Hidden77@h/d',
        "storage: postgresql://u:Hidden77: x@h/d",
        "storage: [postgresql://u:Hidden77@h/d",
        "storage: !x postgresql://u:Hidden77@h/d",
        "storage: *Hidden77",
    ],
)
def test_a_yaml_error_does_not_quote_a_password(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="line ") as caught:
        load(tmp_path, f"genome:\n  models: [a, b]\nstudy:\n  {line}\n")
    assert "u:Hidden77" not in str(caught.value)


def test_a_name_without_a_task_file_is_a_task_of_lm_eval(tmp_path: Path) -> None:
    (tmp_path / "hooked.yaml").write_text("task: hooked\ndoc_to_text: !function hooks.text\n")
    named = {"name": "other", "metric": "exact_match,strict-match", "weight": -1}
    config = load(tmp_path, study(tasks=["hooked", named], apply_chat_template=True))
    assert [task.kind for task in config.tasks] == ["lm_eval", "lm_eval"]
    assert config.tasks[1].metric == "exact_match,strict-match"
    own = {"name": "own", "kind": "retrieval", "data": "q"}
    with pytest.raises(ConfigError, match="apply_chat_template: is not supported by native tasks"):
        load(tmp_path, study(tasks=["hooked", own], apply_chat_template=True))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("nuslerp", {"models": ["a", "b", "d"]}, "needs exactly 2 models, not 3"),
        ("nuslerp", {"models": ["a", "c"]}, "needs exactly 2 models besides the base, not 1"),
        ("nearswap", {}, "models: nearswap needs 1 model, not 2"),
        (
            "arcee_fusion",
            {"models": ["a"], "base_model": None},
            "base_model: is required by arcee",
        ),
        ("model_stock", {"models": ["a"]}, "models: at least 2 models are needed, not 1"),
        ("karcher", {"models": ["a"]}, "models: at least 2 models are needed, not 1"),
        ("passthrough", {}, "models: passthrough needs 1 model, not 2"),
        ("sce", {"normalize": True}, "normalize: sce does not normalize"),
        ("sce", {"parameters": {"weight": 1.0}}, "unknown parameter; must be one of select_topk"),
        (
            "arcee_fusion",
            {"models": ["a"], "parameters": {"q": 1}},
            "arcee_fusion has no parameters",
        ),
        ("karcher", {"parameters": {"max_iter": 0}}, "parameters.max_iter: must be at least 1"),
        ("karcher", {"parameters": {"max_iter": 1.5}}, "must be a whole number"),
        ("della", {"parameters": {"rescale": 0.5}}, "parameters.rescale: must be true or false"),
        ("della", {"parameters": {"epsilon": True}}, "must be a number, not true or false"),
        (
            "della",
            {"parameters": {"epsilon": "much"}},
            "epsilon: must be a number, or true or false",
        ),
    ],
)
def test_a_genome_that_does_not_fit_its_method_is_refused(
    tmp_path: Path, method: str, changes: dict[str, Any], message: str
) -> None:
    data = study(genome__merge_method=method)
    data["genome"] |= changes
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("method", "space", "message"),
    [
        ("della", {"epsilon": [0, 0.6]}, "space.epsilon: must be at least 0 and at most 0.5"),
        ("karcher", {"max_iter": [1, 5]}, "max_iter: unknown key"),
        ("model_stock", {"weight": [0, 1]}, "space.weight: model_stock has no weight"),
        ("breadcrumbs", {"gamma": [-0.1, 0.1]}, "space.gamma: must be at least 0 and at most 1"),
    ],
)
def test_a_range_that_does_not_fit_its_method_is_refused(
    tmp_path: Path, method: str, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, study(genome__merge_method=method, space=space))


def test_a_parameter_is_searched_or_fixed_or_has_its_default(tmp_path: Path) -> None:
    changes = {
        "genome__merge_method": "della",
        "space": {"epsilon": [0, 0.2], "lambda": [0.5, 1.5]},
    }
    config = load(
        tmp_path, study(**changes, genome__parameters={"rescale": False, "density": "5e-1"})
    )
    genome = MergeGenome(config.genome, config.space, 4)
    assert {name.split("/")[-1] for name in genome.space} == {"weight", "epsilon", "lambda"}
    recipe = genome.recipe({name: r.high for name, r in genome.space.items()})
    assert recipe.options == {"rescale": False}
    assert recipe.values["density"] == (((0.5,), (0.5,)),)
    assert recipe.values["epsilon"] == (((0.2,), (0.2,)),)
    assert recipe.scale == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a\n- b", "is not a mapping"),
        ("", "is empty"),
        ("genome: 3\ntasks: []", "genome"),
        ("a: 1\na: 2", "line 2: key a is listed twice"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_several_errors_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, study(study__trails=3, genome__models=["a"]))
    lines = str(caught.value).split("\n")
    assert lines[0].endswith("is not a valid study:")
    assert len(lines) == 3


def test_a_missing_folder_of_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study()))
    load_config(path, [tmp_path])
    with pytest.raises(ConfigError, match=r"--task-search-path .*/none: the folder does not exist"):
        load_config(path, [tmp_path, tmp_path / "none"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_the_heartbeat_timeout_may_have_its_old_name(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = (DEMO / "study.yaml").read_text()
    for key in ("grace", "heartbeat_timeout"):
        path.write_text(text.replace("study:\n", f"study:\n  {key}: 7\n"))
        assert load_config(path).study.heartbeat_timeout == 7
    path.write_text(text.replace("study:\n", "study:\n  grace: 7\n  heartbeat_timeout: 8\n"))
    with pytest.raises(ConfigError, match=r"study.grace: is the old name of heartbeat_timeout"):
        load_config(path)
