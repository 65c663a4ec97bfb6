"""Few-shot examples of lm-eval's tasks never contain a held-out question."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from objectives.errors import TaskError
from objectives.models.tokenizer import load_tokenizer
from objectives.tasks.lm_eval.groups import TaskRequest
from objectives.tasks.lm_eval.load import LmEval, Rules
from objectives.tasks.lm_eval.task import LmEvalTask
from objectives.tasks.questions.split import held_out
from tests.support.paths import DEMO

SHARE = 0.5
Write = Callable[..., None]
TASK = {
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 2,
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}


def documents(first: int, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"Item {i}?", "label": i % 2, **more} for i in range(first, first + count)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function write(name, splits, **fields) that writes a task and its documents by split."""

    def written(name: str, splits: dict[str, list[dict[str, Any]]], **fields: Any) -> None:
        files = {}
        for split, rows in splits.items():
            files[split] = f"{name}-{split}.jsonl"
            (tmp_path / files[split]).write_text("\n".join(map(json.dumps, rows)))
        kwargs = {"data_files": files, "cache_dir": str(tmp_path / "cache")}
        data = TASK | {"task": name, "dataset_kwargs": kwargs} | fields
        text = yaml.safe_dump({key: value for key, value in data.items() if value is not None})
        (tmp_path / f"{name}.yaml").write_text(text)

    return written


def load(folder: Path, *names: str, share: float = SHARE, **rules: Any) -> list[LmEvalTask]:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    theirs = LmEval(Rules((folder,), held_out=share, **rules), tokenizer, 256)
    return theirs.tasks([TaskRequest(name, 1.0, "acc,none") for name in names])


def prompts(task: LmEvalTask) -> dict[str, str]:
    """Return the prompt of each question."""
    return {
        requests[0].doc["question"]: requests[0].args[0]
        for leaf in task.leaves
        for requests in leaf.instances.values()
    }


def held_out_questions(task: LmEvalTask) -> set[str]:
    return {json.loads(q.text)["question"] for q in task.questions if held_out(q, SHARE)}


def assert_clean(task: LmEvalTask, secret: set[str], examples: int = 2) -> None:
    """Check that each question is once in its prompt, at the end, and no secret one in another."""
    assert secret
    for question, prompt in prompts(task).items():
        assert prompt.endswith(question)
        assert prompt.count("Item") == examples + 1
        assert prompt.count(question) == 1
        assert not [other for other in secret - {question} if other in prompt]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fewshot_split": "test"},
        {"test_split": None, "validation_split": "test"},
        {"test_split": None, "validation_split": "test", "fewshot_split": "test"},
        {"training_split": "test"},
        {"fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}},
        {"fewshot_config": {"samples": documents(0, 20)}},
        {
            "fewshot_split": "test",
            "fewshot_config": {"doc_to_text": "Here: {{question}}", "doc_to_target": "yes"},
        },
    ],
)
def test_examples_come_from_documents_that_are_not_held_out(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    caplog.set_level("INFO")
    write("few", {"test": documents(0, 20)}, **fields)
    [task] = load(tmp_path, "few")
    secret = held_out_questions(task)
    assert_clean(task, secret)
    line = f"few: {len(secret)} of the 20 documents that few-shot examples are drawn from are, or"
    assert line in caplog.text


@pytest.mark.parametrize(
    "rows",
    [
        documents(0, 20, source="elsewhere"),
        [row | {"question": f" {row['question']}\n"} for row in documents(0, 20)],
        [row | {"label": 1 - row["label"]} for row in documents(0, 20)],
    ],
)
def test_copies_of_held_out_questions_are_excluded_from_the_examples(
    tmp_path: Path, write: Write, rows: list[dict[str, Any]]
) -> None:
    test = documents(0, 20, **({"source": "here"} if "source" in rows[0] else {}))
    write("few", {"test": test, "train": rows}, training_split="train")
    [task] = load(tmp_path, "few")
    assert_clean(task, held_out_questions(task))


def test_prompts_stay_unchanged_if_no_example_is_a_question(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write("few", {"test": documents(0, 20), "train": documents(100, 9)}, training_split="train")
    write("none", {"test": documents(0, 20)}, num_fewshot=0)
    apart, whole = (load(tmp_path, "few", "none", share=share) for share in (SHARE, 0))
    assert [prompts(task) for task in apart] == [prompts(task) for task in whole]
    assert "drawn from" not in caplog.text


def test_examples_contain_no_held_out_question_of_another_task(
    tmp_path: Path, write: Write
) -> None:
    write("asked", {"test": documents(0, 20)}, num_fewshot=0)
    write("few", {"test": documents(100, 20), "train": documents(0, 20)}, training_split="train")
    asked, few = load(tmp_path, "asked", "few")
    assert_clean(few, held_out_questions(asked) | held_out_questions(few))
    text = "group: both\ntask: [asked, few]\naggregate_metric_list: [{metric: acc}]\n"
    (tmp_path / "both.yaml").write_text(text)
    [both] = load(tmp_path, "both")
    visible = {question: text for question, text in prompts(both).items() if text.count("Item") > 1}
    secret = held_out_questions(both)
    assert len(visible) == 20
    assert all(other not in t for q, t in visible.items() for other in secret - {q})


def test_equal_prompts_are_distinguished_by_their_targets(tmp_path: Path, write: Write) -> None:
    fields = {
        "output_type": "loglikelihood",
        "doc_to_text": "Write:",
        "doc_to_choice": None,
        "doc_to_target": "{{question}}",
    }
    splits = {place: documents(0, 20, source=place) for place in ("test", "train")}
    write("few", splits, training_split="train", **fields)
    [task] = load(tmp_path, "few")
    secret = held_out_questions(task)
    for question, prompt in prompts(task).items():
        assert prompt.count("Item") == 2
        assert not [other for other in secret | {question} if other in prompt]


def test_the_limit_does_not_make_held_out_documents_examples(tmp_path: Path, write: Write) -> None:
    write("few", {"test": documents(0, 40)}, fewshot_split="test")
    [whole], [task] = load(tmp_path, "few"), load(tmp_path, "few", limit=4)
    assert len(task.questions) < 20
    assert_clean(task, held_out_questions(whole))


def test_too_few_documents_for_examples_are_an_error(tmp_path: Path, write: Write) -> None:
    write("few", {"test": documents(0, 20)}, num_fewshot=15)
    with pytest.raises(TaskError, match=r"few: 15 few-shot .* at least 16 documents.*there are \d"):
        load(tmp_path, "few")


def test_a_sampler_with_its_own_documents_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "own.py").write_text(
        "from lm_eval.api.samplers import ContextSampler\n"
        "class Own(ContextSampler):\n"
        "    def __init__(self, df, **more):\n"
        "        super().__init__(df, **more)\n"
        "        self.mine = list(df)\n"
        "    def sample(self, n, eval_doc=None, **more):\n"
        "        return self.mine[:n]\n"
    )
    write("few", {"test": documents(0, 20)}, num_fewshot=12)
    with (tmp_path / "few.yaml").open("a") as file:
        file.write("fewshot_config: {sampler: !function own.Own}\n")
    with pytest.raises(TaskError, match=r"few: .*sampler .* draws held-out questions"):
        load(tmp_path, "few", share=0.3)


VALIDATED = {"test_split": None, "validation_split": "test"}


@pytest.mark.parametrize(
    ("fields", "warns"),
    [
        ({}, True),
        ({"fewshot_split": "test"}, False),
        ({"training_split": "test"}, True),
        ({"training_split": "train"}, False),
        ({"fewshot_split": "train"}, False),
        (VALIDATED, False),
        (VALIDATED | {"fewshot_split": "test"}, True),
        (VALIDATED | {"fewshot_split": "train"}, False),
        ({"fewshot_config": {"samples": documents(100, 20)}}, False),
        ({"fewshot_config": {"samples": documents(0, 3)}}, True),
    ],
)
def test_a_warning_says_that_a_question_may_be_its_own_example(
    tmp_path: Path,
    write: Write,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
    warns: bool,
) -> None:
    splits = {"test": documents(0, 20), "train": documents(100, 20)}
    write("few", splits, num_fewshot=3, **fields)
    [task] = load(tmp_path, "few", share=0)
    warning = "few: lm-eval draws the few-shot examples from documents that contain the questions"
    assert (warning in caplog.text) == warns
    if not warns:
        assert all(prompt.count(question) == 1 for question, prompt in prompts(task).items())


@pytest.mark.parametrize("count", ["two", -1, 1.5, [2]])
def test_an_invalid_number_of_examples_is_reported(
    tmp_path: Path, write: Write, count: object
) -> None:
    write("few", {"test": documents(0, 20)}, num_fewshot=count)
    with pytest.raises(TaskError, match=r"few: .*"):
        load(tmp_path, "few")
