"""Only code from the user's folders runs, and errors in task files are reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from objectives.errors import TaskError
from objectives.models.tokenizer import load_tokenizer
from objectives.tasks.lm_eval.code import ForeignCodeError
from objectives.tasks.lm_eval.load import LmEval, Rules
from objectives.tasks.lm_eval.task import LmEvalTask
from tests.support.paths import DEMO

TASK: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "test_split": "train",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"max_gen_toks": 1, "until": []},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"Item {i}?", "answer": "yes"} for i in range(4)]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def write(folder: Path, more: str = "", name: str = "mine", **fields: Any) -> Path:
    """Write a task file, with the text `more` at its end. Fields that are None are left out."""
    kwargs = {"data_files": "all.jsonl", "cache_dir": str(folder.parent / "cache")}
    data = TASK | {"dataset_kwargs": kwargs} | fields
    text = yaml.safe_dump({key: value for key, value in data.items() if value is not None})
    path = folder / f"{name}.yaml"
    path.write_text(text + more)
    return path


def load(*folders: Path, name: str = "mine", **rules: Any) -> LmEvalTask:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    return LmEval(Rules(folders, **rules), tokenizer, 256).task(name, 1.0, "exact_match,none")


def marking(folder: Path, module: str = "evil") -> Path:
    """Write a module that creates a file when it runs and has a function `of`."""
    folder.mkdir(exist_ok=True)
    mark = folder / "ran"
    text = f"open({str(mark)!r}, 'w').close()\ndef of(*given): return 'x'\n"
    (folder / f"{module}.py").write_text(text)
    return mark


def test_a_hook_by_a_path_out_of_the_folder_is_refused(tasks: Path, tmp_path: Path) -> None:
    mark = marking(tmp_path / "elsewhere")
    link = tasks / "linked.py"
    link.symlink_to(tmp_path / "elsewhere" / "evil.py")
    for hook in (f"{tmp_path}/elsewhere/evil.of", f"..{tmp_path}/elsewhere/evil.of", "linked.of"):
        write(tasks, f"doc_to_text: !function {hook}\n", doc_to_text=None)
        with pytest.raises(ForeignCodeError, match=r"^mine: !function .*--task-search-path .*else"):
            load(tasks)
    assert not mark.exists()
    assert load(tasks, tmp_path / "elsewhere").questions
    assert mark.exists()


def test_a_file_included_from_another_folder_is_refused(tasks: Path, tmp_path: Path) -> None:
    mark = marking(tmp_path / "elsewhere")
    other = write(tmp_path / "elsewhere", "doc_to_text: !function evil.of\n", "part")
    for name in ("../elsewhere/part.yaml", str(other)):
        (tasks / "mine.yaml").write_text(f"include: {name}\ntask: mine\n")
        with pytest.raises(ForeignCodeError, match=r"^mine: the task file part.yaml is in .*elsew"):
            load(tasks)
    (tasks / "mine.yaml").unlink()
    (tasks / "mine.yaml").symlink_to(other.rename(tmp_path / "elsewhere" / "mine.yaml"))
    with pytest.raises(ForeignCodeError, match=r"mine: the task file mine.yaml is in .*elsewhere"):
        load(tasks)
    assert not mark.exists()


def test_a_module_of_the_current_folder_is_refused(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = marking(tmp_path / "here", "evil_here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend("")
    write(tasks, "doc_to_text: !function evil_here.of\n", doc_to_text=None)
    with pytest.raises(ForeignCodeError, match=r"^mine: .*current folder, whose code may not run"):
        load(tasks)
    assert not mark.exists()
    write(tasks, "doc_to_text: !function json.dumps\n", doc_to_text=None)
    assert load(tasks).questions  # an installed module is the user's own choice


def test_code_that_comes_with_documents_or_metrics_is_refused(tasks: Path, tmp_path: Path) -> None:
    kwargs = {"data_files": "all.jsonl", "cache_dir": str(tmp_path / "cache")}
    write(tasks, dataset_kwargs=kwargs | {"trust_remote_code": True})
    with pytest.raises(
        ForeignCodeError, match=r"^mine: dataset_kwargs: trust_remote_code: code th"
    ):
        load(tasks)
    write(tasks, dataset_kwargs=kwargs | {"trust_remote_code": False})
    assert load(tasks).questions
    mark = marking(tmp_path / "script", "script")
    write(tasks, dataset_path=str(tmp_path / "script" / "script.py"), dataset_kwargs=None)
    with pytest.raises(TaskError, match=r"^mine: .*scripts"):
        load(tasks)
    metric = {"aggregation": "mean", "higher_is_better": True}
    for name in ("no_such_metric", str(tmp_path / "script"), "org/repo"):
        write(tasks, metric_list=[metric | {"metric": name}])
        with pytest.raises(ForeignCodeError, match=r"^mine: metric .* not one of lm-eval's own"):
            load(tasks)
    write(tasks, metric_list=[metric | {"metric": "exact_match", "hf_evaluate": True}])
    with pytest.raises(
        ForeignCodeError, match=r"^mine: metric exact_match is not one of lm-eval's"
    ):
        load(tasks)
    assert not mark.exists()


def test_the_same_rules_apply_to_groups(tasks: Path) -> None:
    kwargs = {"data_files": str(tasks / "all.jsonl"), "trust_remote_code": True}
    write(tasks)
    group = {
        "group": "both",
        "task": [{"task": "mine", "dataset_kwargs": kwargs}],
        "aggregate_metric_list": [{"metric": "exact_match"}],
    }
    (tasks / "both.yaml").write_text(yaml.safe_dump(group))
    with pytest.raises(ForeignCodeError, match=r"mine: dataset_kwargs: trust_remote_code"):
        load(tasks, name="both")


HOSTILE: dict[str, dict[str, Any]] = {
    "division": {"doc_to_text": "{{ 1 / 0 }}"},
    "undefined": {"doc_to_text": "{{ nothing.there }}"},
    "syntax": {"doc_to_text": "{% for %}"},
    "recursion": {"doc_to_text": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"},
    "include": {"doc_to_text": "{% include '/etc/passwd' %}"},
    "text": {"doc_to_text": 5.5},
    "target": {"doc_to_target": {"a": 1}},
    "choices": {"output_type": "multiple_choice", "doc_to_choice": "{{question}}"},
    "no choices": {"output_type": "multiple_choice", "doc_to_choice": []},
    "kind": {"output_type": "telepathy"},
    "kwargs": {"dataset_kwargs": [1]},
    "kwargs text": {"dataset_kwargs": "train"},
    "path": {"dataset_path": 5},
    "unknown key": {"nonsense": 1},
    "metrics": {"metric_list": "acc"},
    "metric": {"metric_list": [{"aggregation": "mean"}]},
    "metric list": {"metric_list": [{"metric": ["acc"]}]},
    "aggregation": {"metric_list": [{"metric": "exact_match", "aggregation": "nope"}]},
    "filter": {"filter_list": [{"name": "none", "filter": [{"function": "nope"}]}]},
    "filter list": {"filter_list": "take_first"},
    "process_results": {"process_results": "text"},
    "generation": {"generation_kwargs": [1]},
    "tokens": {"generation_kwargs": {"max_gen_toks": "many"}},
    "until": {"generation_kwargs": {"until": 5, "max_gen_toks": 1}},
    "split": {"test_split": "nope"},
    "prompt": {"use_prompt": "nope"},
    "sampler": {"num_fewshot": 1, "fewshot_config": {"sampler": "nope"}},
    "fewshot": {"num_fewshot": 1, "fewshot_config": {"nope": 1}},
    "many examples": {"num_fewshot": 10**6},
}


@pytest.mark.parametrize("fault", HOSTILE)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_error_in_a_task_file_is_reported_with_the_task(
    tasks: Path, fault: str, share: float
) -> None:
    write(tasks, **HOSTILE[fault])
    with pytest.raises(TaskError, match=r"^mine: ") as caught:
        load(tasks, held_out=share).prompts(load_tokenizer("model", DEMO / "models" / "numeric"))
    assert len(str(caught.value).splitlines()) <= 8
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('at import')",
        "import sys; sys.exit(3)",
        "def other(): pass",
        "def of(",
        "import no_such_module",
        "of = 5",
    ],
)
def test_an_error_in_a_module_of_hooks_is_reported(tasks: Path, code: str) -> None:
    (tasks / "hooks.py").write_text(code)
    write(tasks, "process_docs: !function hooks.of\n")
    with pytest.raises(TaskError, match=r"^mine: "):
        load(tasks)


@pytest.mark.parametrize(
    "text",
    [
        "task: mine\ninclude: mine.yaml\n",
        "task: mine\ninclude: none.yaml\n",
        "task: mine\ninclude: 5\n",
        "- task: mine\n",
        "task: [\n",
        "task: " + "[" * 5000,
        "group: mine\ntask: [mine]\naggregate_metric_list: [{metric: exact_match}]\n",
        "group: mine\ntask: 5\naggregate_metric_list: [{metric: exact_match}]\n",
        "group: mine\ntask: [5]\naggregate_metric_list: [{metric: exact_match}]\n",
        "group: mine\ntask: [{}]\naggregate_metric_list: 5\n",
        "task: mine\n",
        "task: mine\nclass: !function os.getcwd\n",
        "task: mine\nclass: 5\n",
    ],
)
def test_an_invalid_task_file_is_reported(tasks: Path, text: str) -> None:
    (tasks / "mine.yaml").write_text(text)
    with pytest.raises(TaskError, match=r"^mine: ") as caught:
        load(tasks)
    assert len(str(caught.value)) < 1000
