"""Scores are compared with those of lm-eval for the same model folder and tasks."""

import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from objectives.engines.engine import Answer, Engine
from objectives.engines.transformers import TransformersEngine
from objectives.errors import ScorerError, TaskError
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.models.tokenizer import load_tokenizer
from objectives.scoring import QuestionSet, TaskScores
from objectives.tasks.examples import examples
from objectives.tasks.lm_eval.groups import TaskRequest
from objectives.tasks.lm_eval.load import LmEval, Rules
from objectives.tasks.lm_eval.task import LmEvalTask
from objectives.tasks.scorer_calls import Scoring
from study.config.load import load_config
from study.setup.setup import Setup, build
from tests.support.lm_eval_files import study_text, write_tasks
from tests.support.paths import DEMO

CONTEXT = 256
CHAT = (
    "{{ bos_token }}{% for turn in messages %}{% if turn['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}{{ turn['role'] }} {{ turn['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
Load = Callable[..., LmEvalTask]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("lm_eval") / "tasks", 12)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer begins every text with <s> and has a chat template."""
    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(DEMO / "models" / "numeric", folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def theirs(model: Path, tasks: Path, *names: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Return lm-eval's scores, with absolute paths."""
    from objectives.tasks.lm_eval.files import local_documents

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with local_documents():
        loaded = [manager.load([name]) for name in names]
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=4)
    scores = {}
    for name, part in zip(names, loaded, strict=True):
        asked = [part["groups"][name] if name in part["groups"] else part["tasks"][name]]
        results = simple_evaluate(
            lm, tasks=asked, task_manager=manager, log_samples=False, bootstrap_iters=2, **options
        )
        scores[name] = results["results"][name]
    return scores


def ours(model: Path, tasks: Path, name: str, metric: str, **rules: Any) -> TaskScores:
    tokenizer = load_tokenizer("model", model)
    task = LmEval(Rules((tasks,), **rules), tokenizer, CONTEXT).task(name, 1.0, metric)
    return QuestionSet([task], tokenizer).evaluate(engine_of(model)).tasks[name]


def engine_of(model: Path, cache: dict[Path, Engine] = {}) -> Engine:  # noqa: B006
    if model not in cache:
        cache[model] = TransformersEngine(Sources({"model": model}, "model"))
        cache[model].load(MergeRecipe.single("model", 32))
    return cache[model]


@pytest.fixture(scope="module")
def expected(tasks: Path) -> dict[str, dict[str, Any]]:
    names = ("hooked", "options", "numbers", "likely", "searched", "long", "tail", "both", "alike")
    return theirs(DEMO / "models" / "numeric", tasks, *names)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("hooked", "acc,none"),
        ("hooked", "length,none"),
        ("options", "acc,none"),
        ("options", "acc_norm,none"),
        ("options", "brier_score,none"),
        ("numbers", "acc,none"),
        ("likely", "perplexity,none"),
        ("likely", "acc,none"),
        ("searched", "exact_match,digit"),
        ("searched", "exact_match,whole"),
        ("long", "acc,none"),
        ("long", "brier_score,none"),
        ("tail", "exact_match,none"),
        ("both", "acc,none"),
        ("alike", "acc,none"),
    ],
)
def test_scores_equal_lm_evals(
    tasks: Path, expected: dict[str, dict[str, Any]], name: str, metric: str
) -> None:
    scores = ours(DEMO / "models" / "numeric", tasks, name, metric)
    assert scores.mean == pytest.approx(expected[name][metric], rel=1e-4, abs=1e-6)
    measure, chain = metric.split(",")
    error = expected[name][f"{measure}_stderr,{chain}"]
    if name not in ("both", "alike") and measure in ("acc", "acc_norm", "exact_match"):
        assert scores.error == pytest.approx(error, abs=1e-6)


def test_the_reference_scores_are_not_trivial(expected: dict[str, dict[str, Any]]) -> None:
    shares = [
        value
        for results in expected.values()
        for key, value in results.items()
        if key.startswith(("acc,", "exact_match,"))
    ]
    assert sum(0 < share < 1 for share in shares) >= 5


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_templates_and_examples_equal_lm_evals(
    tasks: Path, chatty: Path, multiturn: bool
) -> None:
    options = {"num_fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": multiturn}
    results = theirs(chatty, tasks, "options", "searched", **options)
    rules = {"num_fewshot": 2, "chat_template": True, "multiturn": multiturn}
    for name, metric in (("options", "brier_score,none"), ("searched", "exact_match,digit")):
        scores = ours(chatty, tasks, name, metric, **rules)
        assert scores.mean == pytest.approx(results[name][metric], rel=1e-4, abs=1e-6)


def test_texts_are_tokenized_like_lm_evals(chatty: Path) -> None:
    from objectives.tasks.lm_eval.prompts import RequestConverter

    lm = HFLM(pretrained=str(chatty), dtype="float32", device="cpu")
    converter = RequestConverter(load_tokenizer("model", chatty), CONTEXT)
    for text in ("Pack of 7 noodles", "<s> Pack", "", "  soap"):
        assert converter.tok_encode(text) == lm.tok_encode(text)
        assert converter._for_generation(text) == lm.tok_batch_encode([text])[0][0].tolist()
    for pair in (("Pack of", " 7 soap"), ("Pack of  ", "7"), ("<s> Pack", "\n7")):
        assert converter._encode_pair(*pair) == lm._encode_pair(*pair)


def test_equal_prompts_of_a_document_are_asked_once_and_share_a_prefix(tasks: Path) -> None:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    loaded = LmEval(Rules((tasks,)), tokenizer, CONTEXT)
    numbers = loaded.task("numbers", 1.0, "acc,none").prompts(tokenizer)
    assert [len(prompts) for prompts in numbers] == [1] * 12
    assert {len(prompt.options) for [prompt] in numbers} == {4}
    options = loaded.task("options", 1.0, "acc,none").prompts(tokenizer)
    assert all(p.shared == options[0][0].shared > 0 for prompts in options for p in prompts)
    [stops] = {
        p.stops for [p] in loaded.task("searched", 1.0, "exact_match,digit").prompts(tokenizer)
    }
    texts = {tokenizer.decode([token]) for token in stops}
    assert {"5", "15", "</s>"} <= texts
    assert all("5" in text or text == "</s>" for text in texts)


@pytest.fixture
def load(tmp_path: Path, tasks: Path) -> Load:
    """A function load(name, metric, text=..., **rules) that loads a task, possibly from a text."""

    def loaded(
        name: str, metric: str = "acc,none", text: str | None = None, **rules: Any
    ) -> LmEvalTask:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        if text is not None:
            (folder / "all.jsonl").write_text((tasks / "all.jsonl").read_text())
            cached = f"dataset_kwargs: {{cache_dir: {tmp_path / 'cache'}}}\n"
            (folder / f"{name}.yaml").write_text(cached + text)
        tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
        settings = {"folders": (folder, tasks)} | rules
        wanted = TaskRequest(name, 1.0, metric, settings.pop("scoring", Scoring()))
        return LmEval(Rules(**settings), tokenizer, CONTEXT).tasks([wanted])[0]

    return loaded


def task_text(name: str, **fields: Any) -> str:
    data = {
        "task": name,
        "dataset_path": "all.jsonl",
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{input_field}}",
        "doc_to_target": "{{output_field}}",
        "generation_kwargs": {"max_gen_toks": 1, "until": []},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    return yaml.safe_dump(data | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "there is no metric acc,none; it has exact_match,none"),
        (
            {"generation_kwargs": {"do_sample": True}},
            r"sampling \(do_sample, temperature above 0\) is not",
        ),
        (
            {"generation_kwargs": {"temperature": 0.7}},
            r"sampling \(do_sample, temperature above 0\) is not",
        ),
        ({"generation_kwargs": {"num_beams": 4}}, "generation_kwargs.num_beams is not supported"),
        ({"generation_kwargs": {"max_gen_toks": 256}}, "max_gen_toks: 256 must be 1 to 255"),
        ({"output_type": "loglikelihood_rolling"}, "output_type loglikelihood_rolling is not su"),
        ({"unsafe_code": True}, "unsafe_code"),
        ({"doc_to_image": "x"}, "images and audio"),
        ({"dataset_path": "none.jsonl"}, "dataset_path must be a JSON or JSONL file"),
        ({"test_split": "tests"}, "cannot be loaded: KeyError"),
        ({"output_type": "loglikelihood", "doc_to_target": ""}, "continuation has 0 tokens"),
    ],
)
def test_unsupported_tasks_are_refused_with_the_reason(
    load: Load, fields: dict[str, Any], message: str
) -> None:
    metric = "acc,none" if not fields else "exact_match,none"
    if fields.get("output_type", "").startswith("loglikelihood"):
        fields = {**fields, "metric_list": [{"metric": "acc"}], "generation_kwargs": None}
        metric = "acc,none"
    with pytest.raises(TaskError, match=message) as caught:
        load("odd", metric, task_text("odd", **fields)).prompts(
            load_tokenizer("model", DEMO / "models" / "numeric")
        )
    assert str(caught.value).startswith("odd: ")


CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_choice": ["0", "1", "2", "3"],
    "doc_to_target": "output_field",
    "generation_kwargs": None,
    "metric_list": [{"metric": "acc"}],
}


def test_the_right_choice_of_an_example_is_the_target(load: Load) -> None:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    task = load("odd", "acc,none", task_text("odd", **CHOICES))
    for question, example in zip(
        task.questions, examples(task, task.prompts(tokenizer), tokenizer), strict=True
    ):
        right = [k for k, alternative in enumerate(example.alternatives) if alternative.right]
        assert right == [json.loads(question.text)["output_field"]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"doc_to_target": "{{4 - output_field}}"}, "4, which is not one of the 4 choices"),
        ({"doc_to_target": "no {{output_field}}"}, r"'no \d', which is not one of the 4 choices"),
        ({"doc_to_target": "{{[output_field, 4]}}"}, r"\[\d, 4\], which is not one of the 4 choi"),
    ],
)
def test_a_target_that_is_no_choice_cannot_be_learned(
    load: Load, fields: dict[str, Any], message: str
) -> None:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    task = load("odd", "acc,none", task_text("odd", **(CHOICES | fields)))
    with pytest.raises(TaskError, match=f"odd: doc_to_target is {message}"):
        examples(task, task.prompts(tokenizer), tokenizer)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("searched", "exact_match,first", "there is no filter first; it has digit, whole"),
        ("both", "f1,none", r"the group has no score f1,none; .* has acc,\(any filter\)"),
    ],
)
def test_a_missing_metric_is_reported_with_the_available_ones(
    load: Load, name: str, metric: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        load(name, metric)


def test_a_tag_is_refused(load: Load) -> None:
    load("odd", "exact_match,none", task_text("odd", tag="mine"))
    with pytest.raises(TaskError, match=r"it is a tag.*list its tasks \(odd\)"):
        load("mine", "exact_match,none")


def test_common_benchmarks_are_refused_even_in_a_group(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    group = "group: mine\ntask: [mmlu_mine]\naggregate_metric_list: [{metric: exact_match}]\n"
    load("mmlu_mine_train", "exact_match,none", task_text("mmlu_mine_train"))
    for name, text in (("mmlu_mine", task_text("mmlu_mine")), ("mine", group)):
        with pytest.raises(
            TaskError, match=r"mmlu_mine: this is a common benchmark.*i-understand-the-dep"
        ):
            load(name, "exact_match,none", text)
    assert load("mine", "exact_match,none", benchmarks=None).questions
    assert load("mine", "exact_match,none", benchmarks=True).questions
    assert "mmlu_mine: this is a common benchmark" in caplog.text


def test_a_missing_task_is_reported_with_the_searched_folders(load: Load) -> None:
    with pytest.raises(
        TaskError, match=r"nope: there is no such task in .*both.*lm-eval has none either"
    ):
        load("nope")
    with pytest.raises(TaskError, match=r"torn: .*torn.yaml cannot be read"):
        load("torn", text="task: [")
    with pytest.raises(TaskError, match="there is no such folder"):
        load("hooked", folders=(Path("nowhere"),))


def own_task(load: Load, folder: Path, hook: str, metric: str = "", retries: int = 0) -> LmEvalTask:
    """Return the task "odd" with `of` as process_results, possibly with other metrics."""
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "odd.py").write_text(hook)
    text = task_text("odd") + "process_results: !function odd.of\n"
    if metric:
        text += f"metric_list: [{metric}]\n"
    name = yaml.safe_load(metric)["metric"] if metric else "exact_match"
    return load("odd", f"{name},none", text, scoring=Scoring(retries=retries))


def test_an_error_in_a_hook_is_reported(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "bad.py").write_text(
        "def bad(*arguments):\n    raise ValueError('oh dear')\n"
    )
    text = task_text("odd").replace("doc_to_text: '{{input_field}}'\n", "")
    message = "odd: cannot be loaded: doc_to_text !function bad: ValueError: oh dear"
    with pytest.raises(TaskError, match=message):
        load("odd", "exact_match,none", f"{text}doc_to_text: !function bad.bad\n")


ENDLESS = "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"
SOMETIMES = "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) if 'complements' in input_field }}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"doc_to_text": ENDLESS}, r"doc_to_text '{% macro .*{{ f\(1\) }}': RecursionError: "),
        ({"doc_to_target": SOMETIMES}, r"doc_to_target \"{% macro .*\": RecursionError: "),
        ({**CHOICES, "doc_to_choice": ENDLESS}, "doc_to_choice '{% macro .*': RecursionError: "),
        ({"doc_to_text": "(" * 200 + "{{" + "(" * 5000}, r"doc_to_text '\(+': "),
        ({"doc_to_text": "{{ [][1] }}{{ x.y }}"}, r"doc_to_text '{{ \[\]\[1\] .*': UndefinedError"),
    ],
)
def test_the_template_that_fails_is_named(load: Load, fields: dict[str, Any], message: str) -> None:
    metric = "acc,none" if "doc_to_choice" in fields else "exact_match,none"
    with pytest.raises(TaskError, match=f"^odd: .*: {message}"):
        load("odd", metric, task_text("odd", **fields))


def test_a_dataset_without_documents_is_reported(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "hooks.py").write_text(
        "def none(docs):\n    return docs.filter(lambda doc: False)\n"
        "def wrong(docs):\n    return [][0]\n"
    )
    (tmp_path / "empty.jsonl").write_text("")
    message = "odd: its dataset has no documents; check dataset_path"
    with pytest.raises(TaskError, match=message):
        load("odd", "exact_match,none", task_text("odd", dataset_path=f"{tmp_path}/empty.jsonl"))
    text = task_text("odd") + "process_docs: !function hooks."
    with pytest.raises(TaskError, match=message):
        load("odd", "exact_match,none", f"{text}none\n")
    with pytest.raises(TaskError, match="odd: cannot be loaded: IndexError: list index"):
        load("odd", "exact_match,none", f"{text}wrong\n")


def test_a_target_that_fails_only_for_an_example_is_reported(load: Load) -> None:
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    task = load("odd", "exact_match,none", task_text("odd"))
    prompts = task.prompts(tokenizer)
    task.leaves[0].task.doc_to_target = lambda doc: [][0]
    with pytest.raises(TaskError, match=r"odd: document 0 cannot be learned: IndexError"):
        examples(task, prompts, tokenizer)


FAULTS = {
    "raise ValueError('oh dear')": "failed: ValueError: oh dear",
    "return {'exact_match': float('nan')}": "exact_match is nan, which is not a number",
    "return {'exact_match': float('inf')}": "exact_match is inf, which is not a number",
    "return {'exact_match': None}": "exact_match is None, which is not a number",
    "return {'exact_match': '1'}": "exact_match is '1', which is not a number",
    "return {'exact_match': [1]}": "exact_match is [1], which is not a number",
    "return None": "TypeError: 'NoneType' object is not iterable",
    "return {}": "returns no exact_match, only nothing; for a document that does not count return",
    "return {'exact': 1}": "returns no exact_match, only exact; for a document",
    "raise SystemExit(0)": "failed: SystemExit: 0",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_document_without_a_score_is_reported_with_the_reason(
    load: Load, tmp_path: Path, fault: str
) -> None:
    hook = (
        "def of(doc, results):\n    if doc['output_field'] == 2:\n"
        f"        {fault}\n    return {{'exact_match': 1}}\n"
    )
    task = own_task(load, tmp_path, hook)
    [broken] = [q for q in task.questions if json.loads(q.text)["output_field"] == 2]
    with pytest.raises(ScorerError) as caught:
        _scores(task, "0")
    start = json.loads(broken.text)["input_field"].split("\n")[0][:20]
    place = f"odd: process_results of document {broken.number} ("
    assert str(caught.value).startswith(place)
    assert start in str(caught.value)
    assert FAULTS[fault] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failing_filter_or_aggregation_is_reported(load: Load, tmp_path: Path) -> None:
    hook = (
        "def of(doc, results):\n    return {'own': 1}\n"
        "def total(marks):\n    raise OSError('the judge is away')\n"
    )
    metric = "{metric: own, aggregation: !function odd.total, higher_is_better: true}"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "odd.py").write_text(hook)
    text = task_text("odd", metric_list=None) + (
        f"process_results: !function odd.of\nmetric_list: [{metric}]\n"
    )
    text = text.replace("metric_list: null\n", "")
    task = load("odd", "own,none", text, scoring=Scoring(retries=0))
    with pytest.raises(ScorerError, match=r"odd: its aggregation failed: OSError: the judge is aw"):
        _scores(task, "0")
    task = own_task(load, tmp_path, "def of(doc, results):\n    return {'exact_match': 1}\n")

    def broken(*_: object) -> None:
        raise OSError("the judge is away")

    task.leaves[0].filter.filters = [broken]
    with pytest.raises(ScorerError, match=r"odd: its filter none failed: OSError: the judge is aw"):
        _scores(task, "0")


def test_a_filter_that_skips_documents_does_not_keep_answers_of_the_previous_trial(
    load: Load, tmp_path: Path
) -> None:
    task = own_task(load, tmp_path, "def of(doc, results):\n    return {'exact_match': 1}\n")
    _scores(task, "0")

    class Forgets:
        def apply(self, responses: list[Any], docs: list[Any]) -> list[Any]:
            return [response[0] for response in responses[1:]]

    task.leaves[0].filter.filters = [Forgets]
    with pytest.raises(ScorerError, match=r"odd: process_results of document 11 .*KeyError"):
        _scores(task, "0")


def test_a_metric_that_a_hook_does_not_return_is_reported(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "hits.py").write_text("def hits(doc, results):\n    return {'hits': 1}\n")
    task = load("odd", "acc,none", task_text("odd") + "process_results: !function hits.hits\n")
    with pytest.raises(
        TaskError, match=r"no metric acc; its process_results returns hits \(docu.* 0"
    ):
        _scores(task, "0")


def _scores(task: LmEvalTask, text: str, non_finite: int = 0) -> list[float]:
    """Return a task's numbers if every answer is `text` and the first few are not finite."""
    tokenizer = load_tokenizer("model", DEMO / "models" / "numeric")
    tokens = tuple(tokenizer.encode(text))
    prompts = task.prompts(tokenizer)
    return task.scores(
        [
            tuple(Answer(tokens, (-1.0,) * len(p.options), i >= non_finite) for p in asked)
            for i, asked in enumerate(prompts)
        ]
    )


def test_a_nan_answer_is_scored_as_wrong_or_makes_an_unbounded_score_the_worst(load: Load) -> None:
    task = load("hooked")
    whole = _scores(task, "0")
    assert set(whole) == {0.0, 1.0}
    assert _scores(task, "0", non_finite=4) == [0.0] * 4 + whole[4:]
    assert _scores(task, "0", non_finite=12) == [0.0] * 12
    assert _scores(load("likely", "perplexity,none"), "0", non_finite=1) == [-1e6] * 12


def test_an_undefined_score_becomes_the_worst(load: Load, tmp_path: Path) -> None:
    hook = "def of(doc, results):\n    return {'odd': float('nan')}\n"
    metric = "{metric: odd, aggregation: nanmean, higher_is_better: true}"
    assert _scores(own_task(load, tmp_path, hook, metric), "0") == [-1e6] * 12


def test_the_error_of_a_score_that_is_not_a_mean_is_estimated_by_a_jackknife(load: Load) -> None:
    """The aggregation is a mean that is not recognized as one, so the correct error is known."""
    from objectives.tasks.lm_eval.task import _jackknifed

    leaf = load("hooked").leaves[0]
    leaf.task.aggregation()["acc"] = statistics.fmean
    marks = {n: math.sin(n) for n in range(15)}
    moved = list(_jackknifed(leaf, marks, statistics.fmean(marks.values())).values())
    assert statistics.fmean(moved) == pytest.approx(0, abs=1e-12)
    assert statistics.stdev(moved) == pytest.approx(statistics.stdev(marks.values()))
    many = {n: math.sin(n * n) for n in range(400)}
    moved = list(_jackknifed(leaf, many, statistics.fmean(many.values())).values())
    assert statistics.stdev(moved) == pytest.approx(statistics.stdev(many.values()), rel=0.5)


def test_an_equally_weighted_group_has_the_combined_error_of_its_members(
    tasks: Path, expected: dict[str, dict[str, Any]]
) -> None:
    parts = [expected[name]["acc_stderr,none"] for name in ("hooked", "options")]
    scores = ours(DEMO / "models" / "numeric", tasks, "alike", "acc,none")
    assert scores.error == pytest.approx(math.hypot(*parts) / 2, rel=0.1)


def test_the_limit_selects_the_first_documents_or_random_ones(load: Load) -> None:
    whole = load("hooked").questions
    assert load("hooked", limit=5).questions == whole[:5]
    one, two = (load("hooked", limit=5, shuffle=seed).questions for seed in (1, 2))
    assert [q.text for q in one] == [q.text for q in load("hooked", limit=5, shuffle=1).questions]
    assert {q.text for q in one} != {q.text for q in two}
    parted = load("hooked", limit=5, held_out=0.5).questions
    assert sum(q.id >= 2**63 for q in parted) == 5
    assert parted == whole[: len(parted)]


def study(folder: Path, *names: object, **more: Any) -> Path:
    path = folder / "evol_merge_config.yaml"
    path.write_text(study_text(*names, **more))
    return path


def built(path: Path, tasks: Path, *more: Path) -> Setup:
    return build(load_config(path, [tasks, *more], False), check_values=False)


def test_a_study_is_refused_after_its_documents_or_task_files_have_changed(
    tasks: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(tasks, own, ignore=shutil.ignore_patterns("cache"))
    path = study(tmp_path, "hooked", {"name": "numbers", "weight": -0.5})

    def facts() -> dict[str, str]:
        return built(path, own).fingerprint(8)

    before = facts()
    assert facts() == before
    hooks = own / "hooks.py"
    hooks.write_text(hooks.read_text() + "\n# another\n")
    changed = {key for key, text in facts().items() if text != before[key]}
    assert changed == {"task hooked"}
    rows = [json.loads(line) for line in (own / "all.jsonl").read_text().splitlines()]
    for row in rows:
        row["output_field"] = 3 - row["output_field"]
    (own / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changed = {key for key, text in facts().items() if text != before[key]}
    assert {"search questions of hooked", "search questions of numbers"} <= changed


def test_code_runs_only_from_folders_that_the_user_lists(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\ndoc_to_text: !function ran.it\n")
    (tmp_path / "tasks" / "ran.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    path = study(tmp_path, "mine")
    with pytest.raises(
        TaskError, match=r"mine: .*which runs code; to allow it.*--task-search-path .*tasks"
    ):
        build(load_config(path), check_values=False)
    assert not (tmp_path / "mark").exists()
    with pytest.raises(TaskError, match="mine: "):
        build(load_config(path, [tmp_path / "tasks"]), check_values=False)
    assert (tmp_path / "mark").exists()


def test_without_lm_eval_the_error_says_how_to_install_it(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(TaskError, match=r"hooked: .*not installed: pip install '.\[lm-eval\]'"):
        built(study(tmp_path, "hooked"), tasks)


def test_a_missing_chat_template_is_refused_if_it_was_requested(
    tmp_path: Path, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    built(study(tmp_path, "numbers"), tasks)
    assert "no chat template: prompts of lm-eval's tasks are plain text" in caplog.text
    with pytest.raises(TaskError, match=r"apply_chat_template: .* has no chat template"):
        built(study(tmp_path, "numbers", apply_chat_template=True), tasks)


def test_native_tasks_and_tasks_of_lm_eval_can_be_combined(tmp_path: Path, tasks: Path) -> None:
    native = {"kind": "multiple_choice", "data": str(DEMO / "questions" / "choice.jsonl")}
    path = study(tmp_path, "numbers", {"name": "own", "prompt": "plain", **native}, limit=6)
    setup = built(path, tasks)
    assert [task.name for task in setup.search.tasks] == ["numbers", "own"]
    assert [len(task.questions) for task in setup.search.tasks] == [6, 6]


def test_the_mergekit_evolve_example_can_be_evaluated() -> None:
    folder = DEMO.parent / "mergekit-evolve"
    setup = built(folder / "evol_merge_config.yaml", folder / "tasks")
    assert [len(task.questions) for task in setup.search.tasks] == [60, 60, 71]
    engine = TransformersEngine(setup.sources)
    engine.load(setup.genome.baselines()[1].recipe)
    scores = setup.held_out.evaluate(engine).tasks
    assert all(0 < score.mean < 1 for score in scores.values())
