"""The transformers engine is compared with transformers' generate, one prompt at a time."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from objectives.engines.engine import Answer, Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.errors import EngineError
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from tests.support.models import WORDS, MakeModel

OPTIONS = tuple(range(12, 16))


@pytest.fixture
def sources(family: dict[str, Path]) -> Sources:
    return Sources(family, "base")


@pytest.fixture
def engine(sources: Sources) -> Iterator[TransformersEngine]:
    created = TransformersEngine(sources, batch_tokens=64)
    yield created
    created.close()


def prompts(shared: int = 9, max_tokens: int = 7, count: int = 23) -> list[Prompt]:
    """Return prompts of many lengths with a shared prefix."""
    generator = torch.Generator().manual_seed(shared)

    def tokens(n: int) -> list[int]:
        return torch.randint(2, len(WORDS), (n,), generator=generator).tolist()

    start = [0, *tokens(shared - 1)] if shared else []
    lengths = torch.randint(1, 14, (count,), generator=generator).tolist()
    return [Prompt((*start, *tokens(n)), shared, max_tokens, OPTIONS) for n in lengths]


def one_by_one(folder: Path, asked: list[Prompt]) -> list[Answer]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in asked:
        ids = torch.tensor([prompt.tokens])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=prompt.max_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = [t for t in out.sequences[0, len(prompt.tokens) :].tolist() if t != 1]
        first = out.logits[0][0].log_softmax(dim=-1)
        answers.append(Answer(tuple(tokens), tuple(first[list(OPTIONS)].tolist())))
    return answers


def close(ours: list[Answer], theirs: list[Answer]) -> bool:
    return all(
        a.tokens == b.tokens and a.logprobs == pytest.approx(b.logprobs, abs=1e-4) and a.finite
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("max_tokens", [1, 7])
@pytest.mark.parametrize("shared", [0, 9])
def test_answers_equal_those_of_generate(
    engine: TransformersEngine, family: dict[str, Path], shared: int, max_tokens: int
) -> None:
    asked = prompts(shared, max_tokens)
    for label in ("x", "base"):
        engine.load(MergeRecipe.single(label, 4, "float32"))
        assert close(engine.answer(asked), one_by_one(family[label], asked))


def test_tasks_with_different_prefixes_and_lengths_can_be_mixed(
    engine: TransformersEngine, family: dict[str, Path]
) -> None:
    asked = [*prompts(9, 1), *prompts(0, 7), *prompts(5, 7)][::-1]
    engine.load(MergeRecipe.single("y", 4, "float32"))
    assert close(engine.answer(asked), one_by_one(family["y"], asked))


def test_a_merge_overwrites_the_previous_one_completely(engine: TransformersEngine) -> None:
    asked = prompts()
    engine.load(MergeRecipe.single("x", 4, "float32"))
    before = engine.answer(asked)
    engine.load(MergeRecipe.single("y", 4, "float32"))
    assert engine.answer(asked) != before
    engine.load(MergeRecipe.single("x", 4, "float32"))
    assert engine.answer(asked) == before


def test_answers_of_a_nan_model_are_marked_as_not_finite(
    sources: Sources, engine: TransformersEngine
) -> None:
    huge = (((1e38,), (1e38,)),)
    recipe = MergeRecipe("task_arithmetic", ("x", "y"), "base", 4, {"weight": huge}, scale=1e30)
    engine.load(recipe)
    answers = engine.answer(prompts(count=4))
    assert len(answers) == 4
    assert not any(answer.finite for answer in answers)


def test_non_finite_logits_after_the_end_of_an_answer_are_ignored(
    sources: Sources, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row has ended while the other continues; only the latter becomes non-finite."""
    asked = prompts(0, 3, 2)
    size = len(WORDS)

    def forward(ids_BT: Tensor, mask_BT: Tensor, cache: DynamicCache) -> Tensor:
        if ids_BT.shape[1] == 1 and mask_BT.shape[1] > 1 and (ids_BT == 1).any():
            return torch.full((len(ids_BT), size), math.nan)
        ends = [1, 5]  # the first row writes the end of a text, the other does not
        return torch.eye(size)[ends[: len(ids_BT)]]

    monkeypatch.setattr(engine, "_forward", forward)
    assert [answer.finite for answer in engine.answer(asked)].count(False) == 1


def test_tied_heads_answer_like_generate(make_model: MakeModel, tmp_path: Path) -> None:
    folders = {n: make_model(tmp_path / n, i, tied=True) for i, n in enumerate(("a", "b"))}
    engine = TransformersEngine(Sources(folders, "a"))
    engine.load(MergeRecipe.single("b", 4, "float32"))
    asked = prompts(count=5)
    assert close(engine.answer(asked), one_by_one(folders["b"], asked))


def test_a_merge_of_the_wrong_shape_is_refused(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = MergeRecipe.single("x", 4)
    whole = list(engine._stream.tensors(recipe))
    for tensors, message in [
        (whole[:-1], "lacks 1 tensors; the first is lm_head.weight"),
        (
            [("model.extra", whole[0][1])],
            r"model.extra has the shape .* the model does not have it",
        ),
        ([(whole[0][0], whole[0][1][:-1])], r"the model expects \["),
    ]:
        monkeypatch.setattr(engine._stream, "tensors", lambda _, b=tensors: iter(b))
        with pytest.raises(EngineError, match=message):
            engine.load(recipe)


def test_an_answer_contains_its_stop_but_not_an_end_token() -> None:
    prompt = Prompt((5,), 0, 9, (), frozenset({7, 2}))

    def answer(*generated: int) -> tuple[tuple[int, ...], bool]:
        of = Answer.of(prompt, generated, (), True, dropped=(1, 2), kept=(3,))
        return of.tokens, of.truncated

    assert answer(4, 7, 4, 7) == ((4, 7), False)
    assert answer(4, 1, 7) == ((4,), False)
    assert answer(4, 2, 7) == ((4, 2), False)
    assert answer(4, 3, 7) == ((4, 3), False)
    assert answer(*[4] * 8, 7) == ((*[4] * 8, 7), False)
    assert answer(*[4] * 8, 1) == ((4,) * 8, False)
    assert answer(*[4] * 9) == ((4,) * 9, True)
