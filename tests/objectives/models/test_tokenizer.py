"""Parents whose tokenizers split text differently from the merge's are named at the start."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from objectives.models.sources import Sources
from objectives.models.tokenizer import Difference, first_difference, listed
from tests.support.models import MakeModel
from tests.support.paths import DEMO

WORDS = ["<s>", "</s>", "?", *"abcABC98", "ab", "bc", "abc", "98"]
VOCABULARY = {token: i for i, token in enumerate(WORDS)}
MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("9", "8")]


def bpe(merges: list[tuple[str, str]] = MERGES, **parts: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(VOCABULARY, merges, unk_token="?"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_equal_tokenizers_have_no_difference() -> None:
    assert first_difference(bpe(), bpe()) is None


@pytest.mark.parametrize(
    "other",
    [
        bpe(MERGES[::3]),
        bpe([MERGES[1], MERGES[0], *MERGES[2:]]),
        bpe(normalizer=normalizers.Lowercase()),
        bpe(pre_tokenizer=pre_tokenizers.Whitespace()),
        bpe(pre_tokenizer=pre_tokenizers.Digits(individual_digits=True)),
    ],
    ids=["fewer merges", "other order of merges", "normalizer", "spaces", "digits"],
)
def test_other_splits_with_the_same_vocabulary_are_found(other: Any) -> None:
    own = bpe()
    assert own.get_vocab() == other.get_vocab()
    difference = first_difference(own, other)
    assert difference is not None
    assert difference.first == own.tokenize(difference.text)
    assert difference.second == other.tokenize(difference.text)


def test_a_text_that_only_one_tokenizer_can_split_is_a_difference() -> None:
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="none"))
    difference = first_difference(bpe(), PreTrainedTokenizerFast(tokenizer_object=words))
    assert isinstance(difference, Difference)
    assert listed(difference.second) == "not possible"
    assert listed(list("abcdefghijklmnop")).endswith("[l] ...")


def changed(folder: Path, source: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a model and change its tokenizer.json."""
    shutil.copytree(source, folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def test_a_model_with_another_normalizer_is_named_with_an_example(
    make_model: MakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["<s>", "</s>", "?", *"abcd", "hello", "world,", "iphone", "HELLO"]
    base = make_model(tmp_path / "base", 0, words=words)
    same = make_model(tmp_path / "same", 1, words=words)
    lower = changed(tmp_path / "lower", base, lambda d: d.update(normalizer={"type": "Lowercase"}))
    assert AutoTokenizer.from_pretrained(lower).tokenize("HELLO") == ["hello"]
    with caplog.at_level(logging.WARNING):
        Sources({"base": base, "same": same, "lower": lower}, "base")
    [text] = [r.getMessage() for r in caplog.records if "splits text differently" in r.getMessage()]
    assert text.startswith("the tokenizer of lower splits text differently from the merge's")
    assert "'HELLO World, iPhone' is [hello] [world,] [iphone] for lower" in text
    assert text.endswith("but [HELLO] [?] [?] for the merge")


def test_the_demos_tokenizers_split_alike(caplog: pytest.LogCaptureFixture) -> None:
    names = ("base", "numeric", "relations", "catalogue")
    Sources({name: DEMO / "models" / name for name in names}, "base")
    assert "splits text differently" not in caplog.text
