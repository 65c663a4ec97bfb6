"""study.init: from models and question files to a study that runs."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from objectives.engines.memory import ROW_TOKENS
from objectives.errors import NotLearnable, QuestionError, SourceError
from objectives.models.sources import Sources
from study.config.errors import ConfigError
from study.config.load import load_config
from study.drafting.models import _row_tokens, base_in_cards
from study.drafting.questions import inspect_file
from study.drafting.write import write_study
from study.init import _init, init
from study.setup.setup import build
from tests.support.commands import command

CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def saved_rows(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def choices(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"question": f"{i} a b ?", "choices": [f"x{i}", f"y{i}", f"z{i}"], "answer": i % 3}
        for i in range(count)
    ]


def drafted(
    folder: Path, models: Sequence[Path | str], files: Sequence[Path], base: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Write a study; return the data of its file, and the lines that were printed."""
    printed: list[object] = []
    out = folder / "new.yaml"
    write_study([str(m) for m in models], files, base, out, printed.append)
    data = yaml.safe_load(out.read_text())
    build(load_config(out), check_values=False)
    return data, "\n".join(map(str, printed)).splitlines()


@pytest.mark.parametrize(
    ("rows", "kind", "fields", "labels"),
    [
        (choices(), "multiple_choice", ("question", "answer", "choices", 0), "numbers from 0"),
        (
            [row | {"answer": row["answer"] + 1} for row in choices()],
            *("multiple_choice", ("question", "answer", "choices", 1), "numbers from 1"),
        ),
        (
            [row | {"answer": "ABC"[row["answer"]]} for row in choices()],
            *("multiple_choice", ("question", "answer", "choices", None), "letters"),
        ),
        (
            [row | {"answer": row["choices"][row["answer"]]} for row in choices()],
            *("multiple_choice", ("question", "answer", "choices", None), "numbers from 0"),
        ),
        (
            [{"question": f"{i}?", "A": "x", "B": "y", "answer": "AB"[i % 2]} for i in range(9)],
            *("multiple_choice", ("question", "answer", ("A", "B"), None), "letters"),
        ),
        (
            [
                {"q": 1, "stem": f"{i}?", "op1": "x", "op2": "y", "label": 1 + i % 2}
                for i in range(9)
            ],
            *("multiple_choice", ("stem", "label", ("op1", "op2"), 1), "numbers from 1"),
        ),
        (
            [{"stem": f"{i}?", "opts": ["x", "y"], "gold": i % 2} for i in range(9)],
            *("multiple_choice", ("stem", "gold", "opts", 0), "numbers from 0"),
        ),
        (
            [
                {"query": f"{i}?\n1. a\n2. b\n3. c", "label": [1, 3], "tags": ["p", "q"]}
                for i in range(9)
            ],
            *("retrieval", ("query", "label", None, None), "numbers from 1"),
        ),
        (
            [{"input_field": f"{i}?\n1. a\n2. b", "output_field": "2"} for i in range(9)],
            *("multiple_choice", None, "numbers from 1"),
        ),
        (
            [{"query": f"{i}?\nA. a\nB. b", "label": "B"} for i in range(9)],
            *("multiple_choice", ("query", "label", None, None), "letters"),
        ),
        (
            [{"prompt": f"{i}?\n1. a\n2. b\n3. c", "target": [1, 3]} for i in range(9)],
            *("retrieval", ("prompt", "target", None, None), "numbers from 1"),
        ),
    ],
)
def test_the_way_to_read_a_file_is_found(
    tmp_path: Path, rows: list[dict[str, Any]], kind: str, fields: tuple[Any, ...], labels: str
) -> None:
    file = inspect_file(saved_rows(tmp_path, rows))
    assert (file.kind, file.on_bad, file.count, file.labels) == (kind, "refuse", len(rows), labels)
    if fields is None:
        assert file.fields is None
    else:
        assert file.fields is not None
        assert (*file.fields.question, *fields[1:]) == (
            *(fields[0],),
            *(file.fields.answer, file.fields.options, file.fields.first),
        )


def test_a_few_rows_that_are_no_questions_are_skipped(tmp_path: Path) -> None:
    rows = [*choices(30), {"question": "no options", "choices": [], "answer": 1}]
    file = inspect_file(saved_rows(tmp_path, rows))
    assert (file.on_bad, file.count, file.left_out) == ("skip", 30, 1)


def test_repeated_rows_do_not_count_as_invalid(tmp_path: Path) -> None:
    rows = [{"question": f"Is {i} a number?\n0. yes\n1. no", "answer": i % 2} for i in range(30)]
    file = inspect_file(saved_rows(tmp_path, [*rows, *rows, {"question": "?", "answer": "none"}]))
    assert (file.on_bad, file.count, file.left_out) == ("skip", 30, 31)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": "x", "b": "y"}], "no field has a usual name for the question; the fields are a, b"),
        (
            [{"text": "x", "A": "a", "B": "b", "key": "A"}],
            r"Rename the answer's field to answer, or .* fields: \{question: text, answer: \.\.\., "
            r"options: \[A, B\]\}",
        ),
        ([{"question": "x"}], "no field has a usual name for the answer"),
        (
            [{"question": "x", "choices": ["a", "b", "c"], "answer": 1}],
            "answer may count the options from 0 or from 1",
        ),
        ([{"question": "x", "answer": "a text"}] * 3, "label 'a text' does not begin"),
    ],
)
def test_an_uncertain_file_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(QuestionError, match=message):
        inspect_file(saved_rows(tmp_path, rows))


def test_the_study_that_is_written_can_be_run(family: dict[str, Path], tmp_path: Path) -> None:
    models = [family[name] for name in "xyz"]
    texts = [row | {"answer": row["choices"][row["answer"]]} for row in choices(50)]
    files = [saved_rows(tmp_path, choices()), saved_rows(tmp_path, texts, "texts.jsonl")]
    words = (*models, *files, "--base", family["base"], "--out", "s.yaml")
    result = command("init", *words, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "wrote s.yaml:" in result.stdout
    assert "mine: the first prompt" in result.stdout
    assert result.stdout.count("   right: ") == 10
    assert re.search(
        r"next: .* -m study\.plan s\.yaml, then .* -m study\.run s\.yaml", result.stdout
    )

    config = load_config(tmp_path / "s.yaml")
    assert config.genome.merge_method == "dare_ties"
    assert config.search.algorithm == "gradient"
    assert [task.weight for task in config.tasks] == [0.5, 0.5]
    assert yaml.safe_load((tmp_path / "s.yaml").read_text())["tasks"][0]["data"] == "mine.jsonl"
    again = command("init", *words, folder=tmp_path)
    assert again.returncode == 2
    assert "--out s.yaml: the file exists" in again.stderr
    run = command("run", "s.yaml", "--trials", 2, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "merge: runs/s/merge-" in run.stdout
    next_command = run.stdout.split("\nnext: ")[1]
    pasted = subprocess.run(next_command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert pasted.returncode == 0, pasted.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "y", "none.jsonl"], "the question file none.jsonl does not exist"),
        (["org/x", "./none", "q.jsonl"], r"\./none: there is no folder .*, and it is not a hub id"),
        (["org/x", "x", "q.jsonl"], "x: there is no folder .*, and it is not a hub id"),
        (["org/x", "models/y", "q.jsonl"], r"models/y: there is no folder .*write models/y@main"),
        (["org/x", "org/y+./none", "q.jsonl"], r"\./none: there is no folder"),
        (["org/x", "~no-such-user/y", "q.jsonl"], "is not a valid folder"),
        (["x", "y", "q.csv"], "q.csv is a file: models are folders or hub ids"),
        (["x", "q.jsonl"], "only the model x is given"),
        (["x", "y"], "no question file is given"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    saved_rows(tmp_path, choices(), "q.jsonl")
    (tmp_path / "q.csv").write_text("a,b\n")
    (tmp_path / "models").mkdir()
    monkeypatch.setitem(sys.modules, "study.drafting.write", None)
    with pytest.raises((ConfigError, SourceError), match=message):
        _init(words, None, Path("s.yaml"), False)


@pytest.mark.parametrize("base", ["./base", "models/base", "a/b/base"])
def test_a_missing_folder_of_the_base_is_refused_before_anything_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    saved_rows(tmp_path, choices(), "q.jsonl")
    monkeypatch.setitem(sys.modules, "study.drafting.write", None)
    with pytest.raises(SourceError, match=f"^{base}: there is no folder"):
        _init(["org/x", "org/y", "q.jsonl"], base, Path("s.yaml"), False)


def test_without_a_base_the_method_needs_none(family: dict[str, Path], tmp_path: Path) -> None:
    file = saved_rows(tmp_path, choices())
    data, printed = drafted(tmp_path, [family["x"], family["y"]], [file], None)
    assert data["genome"]["merge_method"] == "linear"
    assert "base_model" not in data["genome"]
    reason = "needs no base model; with --base the method would be dare_ties"
    assert f"  genome.merge_method: linear ({reason})" in printed
    assert not list(tmp_path.glob("*.yaml-*"))


def test_the_base_is_the_one_that_the_cards_name(family: dict[str, Path], tmp_path: Path) -> None:
    models = []
    for name in "xy":
        folder = tmp_path / name
        folder.mkdir()
        for path in family[name].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "README.md").write_text(f"---\nbase_model: {family['base']}\n---\n# {name}\n")
        models.append(folder)
    data, _ = drafted(tmp_path, models, [saved_rows(tmp_path, choices())], None)
    assert data["genome"]["base_model"] == str(family["base"])
    assert data["genome"]["models"] == ["x", "y"]
    (models[0] / "README.md").write_text("---\nbase_model: other/base\n---\n")
    assert base_in_cards([str(model) for model in models], Path()) is None


def test_a_chat_template_of_a_finetune_is_used(
    family: dict[str, Path], make_model: Any, tmp_path: Path
) -> None:
    finetune = make_model(tmp_path / "chat", 1)
    tokenizer = AutoTokenizer.from_pretrained(finetune)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(finetune)
    models = [family["y"], finetune]
    data, printed = drafted(
        tmp_path, models, [saved_rows(tmp_path, choices())], str(family["base"])
    )
    assert data["genome"]["tokenizer_source"] == "chat"
    assert any("its tokenizer has a chat template" in line for line in printed)


def test_models_with_other_rope_get_a_config_source(
    family: dict[str, Path], make_model: Any, tmp_path: Path
) -> None:
    finetune = make_model(tmp_path / "long", 1)
    config = json.loads((finetune / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5e5
    (finetune / "config.json").write_text(json.dumps(config))
    data, _ = drafted(
        tmp_path,
        *([family["y"], finetune], [saved_rows(tmp_path, choices())], str(family["base"])),
    )
    assert data["genome"]["config_source"] == "base"


def test_the_context_of_the_models_bounds_the_tokens_of_a_row(family: dict[str, Path]) -> None:
    sources = Sources({name: family[name] for name in ("base", "x")}, "base")
    assert sources.parsed_config("float32").max_position_embeddings == 128
    assert _row_tokens(sources, 96) == 96 * 128
    assert _row_tokens(sources, 10_000) == ROW_TOKENS


def test_models_that_cannot_be_merged_leave_no_file(
    family: dict[str, Path], make_model: Any, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "wide", 1, hidden=32)
    with pytest.raises(SourceError, match="cannot be merged"):
        drafted(tmp_path, [family["x"], other], [saved_rows(tmp_path, choices())], None)
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        (["a", "b"], "s.yaml", "no question file is given"),
        (["a", "q.jsonl"], "s.yaml", "only the model a is given"),
        (["q.jsonl"], "s.yaml", "no model is given"),
        (["a", "b", "q.jsonl"], "no/s.yaml", "there is no folder"),
        (["a", "b", "q.jsonl"], "s.txt", "must end in .yaml"),
    ],
)
def test_wrong_arguments_are_refused(
    inputs: list[str], out: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        init(inputs, out=tmp_path / out)


def test_answers_that_a_gradient_cannot_learn_from_are_left_to_cma_es(
    family: dict[str, Path], tmp_path: Path
) -> None:
    items = "\n".join(f"{n}. a" for n in range(1, 17))
    rows = [{"question": f"{n} a ?\n{items}", "answer": [13, 15]} for n in range(50)]
    file = saved_rows(tmp_path, rows)
    data, printed = drafted(tmp_path, [family["x"], family["y"]], [file], str(family["base"]))
    assert data["search"]["algorithm"] == "cmaes"
    assert any("the answer 13,15 cannot be encoded" in line for line in printed)

    data["search"] = {"algorithm": "gradient"}
    data["genome"].pop("layer_granularity")
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(NotLearnable, match=r"cannot be encoded .*; set search\.algorithm: cmaes"):
        build(load_config(tmp_path / "new.yaml"), check_values=False)
