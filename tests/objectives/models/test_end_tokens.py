"""End tokens, compared with transformers' generate, and tokens without an embedding row."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from objectives.engines.engine import Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.errors import SourceError, TaskError
from objectives.export.export import export
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.models.special_tokens import EndTokens
from objectives.scoring import QuestionSet
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts.prompt import Template
from objectives.tasks.task import Question
from tests.support.models import WORDS, MakeModel

END = 1
"""The end token of config.json."""
GENERATION = "generation_config.json"


def copied(family: Mapping[str, Path], to: Path, generation: object = None) -> dict[str, Path]:
    """Copies of base and x with another generation_config.json: a text, or a value as JSON."""
    folders = {name: Path(shutil.copytree(family[name], to / name)) for name in ("base", "x")}
    for folder in folders.values():
        text = generation if isinstance(generation, str) else json.dumps(generation)
        (folder / GENERATION).write_text(text)
    return folders


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def asked(count: int = 12) -> list[Prompt]:
    return [Prompt((0, i, i + 9), 1, 8, ()) for i in range(2, 2 + count)]


def generated(folder: Path, prompts: list[Prompt]) -> list[tuple[int, ...]]:
    """Return what transformers generates, without a final end token of config.json."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.do_sample = False
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt.tokens])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)
        tokens = out[0, len(prompt.tokens) :].tolist()
        ended = tokens[-1] == END and END in model.generation_config.eos_token_id
        rows.append(tuple(tokens[:-1] if ended else tokens))
    return rows


@pytest.mark.parametrize("add", [[END], []], ids=["further", "other"])
def test_answers_end_like_those_of_generate_also_after_export(
    family: dict[str, Path], tmp_path: Path, add: list[int]
) -> None:
    free = TransformersEngine(Sources(copied(family, tmp_path / "free", {}), "base"))
    free.load(MergeRecipe.single("x", 4, "float32"))
    long = free.answer(asked())
    ends = sorted({answer.tokens[2] for answer in long if len(answer.tokens) > 4})[:3]
    folders = copied(family, tmp_path / "ends", {"eos_token_id": [*add, *ends]})
    sources = Sources(folders, "base")
    assert sources.ends == EndTokens(tuple(add), tuple(ends))
    engine = TransformersEngine(sources)
    engine.load(MergeRecipe.single("x", 4, "float32"))
    answers = [answer.tokens for answer in engine.answer(asked())]
    assert answers != [answer.tokens for answer in long]
    assert answers == generated(folders["x"], asked())
    recipe = MergeRecipe.single("x", 4, "float32")
    places = {label: str(path) for label, path in folders.items()}
    merge = export(recipe, sources, places, tmp_path / "merge", "card")
    assert answers == generated(merge, asked())


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"eos_token_id": 5}, EndTokens((), (5,))),
        ({"eos_token_id": [1, 5, 5, 7]}, EndTokens((1,), (5, 7))),
        ({"eos_token_id": [1, 4000, -1]}, EndTokens((1,))),
        ({"eos_token_id": []}, EndTokens(())),
        ({"eos_token_id": None}, EndTokens((1,))),
        ({"temperature": 0.6}, EndTokens((1,))),
    ],
)
def test_end_tokens_may_be_a_number_or_a_list(
    family: dict[str, Path], tmp_path: Path, stored: object, expected: EndTokens
) -> None:
    sources = Sources(copied(family, tmp_path, stored), "base")
    assert sources.ends == expected
    assert sources.end_tokens(use_generation_config=False) == EndTokens((1,))


@pytest.mark.parametrize(
    "stored",
    [
        {"eos_token_id": "</s>"},
        {"eos_token_id": [1, "5"]},
        {"eos_token_id": [[1]]},
        {"eos_token_id": 1.5},
        {"eos_token_id": True},
        [1],
        "{",
        "[" * 100_000,
        "version https://git-lfs.github.com/spec/v1",
    ],
)
def test_an_unusable_generation_config_is_refused(
    family: dict[str, Path], tmp_path: Path, stored: object
) -> None:
    with pytest.raises(SourceError, match=f"base: .*{GENERATION}"):
        Sources(copied(family, tmp_path, stored), "base")


def test_an_export_adds_end_tokens_that_only_config_json_has(
    family: dict[str, Path], tmp_path: Path
) -> None:
    folders = copied(family, tmp_path, {"temperature": 0.6, "do_sample": True})
    sources, recipe = Sources(folders, "base"), MergeRecipe.single("x", 4)
    references = {label: str(path) for label, path in folders.items()}
    merge = export(recipe, sources, references, tmp_path / "merge", "card")
    stored = json.loads((merge / GENERATION).read_text())
    assert stored == {"temperature": 0.6, "do_sample": True, "eos_token_id": END}


@pytest.mark.parametrize("pad", [len(WORDS), 32000, -len(WORDS) - 1])
def test_a_pad_token_without_a_row_changes_nothing(
    family: dict[str, Path], tmp_path: Path, pad: int
) -> None:
    folders = copied(family, tmp_path, {"eos_token_id": END, "pad_token_id": pad})
    for folder in folders.values():
        change_config(folder, pad_token_id=pad)
    answers = []
    for paths in (family, folders):
        engine = TransformersEngine(Sources(paths, "base"))
        engine.load(MergeRecipe.single("x", 4, "float32"))
        answers.append(engine.answer(asked()))
    assert answers[0] == answers[1]
    sources, references = Sources(folders, "base"), dict.fromkeys(folders, "x")
    merge = export(MergeRecipe.single("x", 4), sources, references, tmp_path / "m", "card")
    assert AutoModelForCausalLM.from_pretrained(merge).config.pad_token_id is None


def test_tokens_that_no_model_has_a_row_for_are_zeros_in_a_union(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """Both tokenizers name them, so no other rows are filled."""
    folders = {
        name: make_model(tmp_path / name, i, words=[*WORDS, "<a>", "<b>"])
        for i, name in enumerate(("base", "x"))
    }
    for i, (name, folder) in enumerate(folders.items()):
        few = make_model(tmp_path / f"few-{name}", i, words=WORDS)
        for file in ("model.safetensors", "config.json"):
            shutil.copyfile(few / file, folder / file)
    sources = Sources(folders, "base", "union")
    engine = TransformersEngine(sources)
    engine.load(MergeRecipe.single("x", 4, "float32"))
    head = engine._parameters["lm_head.weight"]
    assert head.shape[0] == len(WORDS) + 2
    assert not head[-2:].any()
    assert head[:-2].any(dim=1).all()


class Numbers:
    """A tokenizer whose tokens are the code points of characters."""

    def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(each) for each in text]}

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, tokens))


@pytest.mark.parametrize(("rows", "needs"), [(122, "'z', id 122"), (49, "'1', id 49")])
def test_a_question_with_a_token_without_a_row_is_refused(rows: int, needs: str) -> None:
    """The token is in the text or is that of an option."""
    text = "which?" if rows < 100 else "which z?"
    low = "".join(map(chr, range(40, 46))) if rows < 100 else text
    questions = tuple(Question(f"{low}{i}"[:-1], "", (0,), (0, 1)) for i in range(2))
    task = MultipleChoice("mc", 1.0, questions[:1], Template("t", "{{ question }}\n"))
    QuestionSet([task], Numbers(), 123)
    with pytest.raises(
        TaskError, match=rf"mc: the question .* contains the token {needs} .* {rows}"
    ):
        QuestionSet([task], Numbers(), rows)
