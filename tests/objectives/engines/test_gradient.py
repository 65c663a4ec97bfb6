"""One step of the gradient engine against the objective's own differences, on tiny models."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from objectives.engines.engine import Prompt
from objectives.engines.gradient.engine import GradientEngine
from objectives.engines.gradient.examples import Alternative, Example, Loss, Target
from objectives.engines.gradient.packing import pack
from objectives.engines.gradient.tree_attention import RowMasks
from objectives.engines.transformers import TransformersEngine
from objectives.merge.catalogue import METHODS
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from study.search.genome import MergeGenome
from tests.support.architectures import MAKES, make
from tests.support.derivatives import changed, finetunes, genome, recipe_of, sources_of, steps_of
from tests.support.models import MakeModel

SEARCHED = [m for m in METHODS if m not in ("model_stock", "arcee_fusion", "karcher")]


@pytest.fixture(scope="module")
def family(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """So near that a loss is a plane between them: only the merge bends and jumps."""
    return finetunes(make_model, tmp_path_factory.mktemp("engine"), 0.01)


def examples(count: int = 6, shared: int = 20, rows: int = 38) -> list[Example]:
    """Questions of one token, of several right tokens in turn, and of several continuations."""
    rng = random.Random(1)

    def words(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(rows) for _ in range(n))

    start, found = words(shared), []
    for i in range(count):
        text = start[: shared - 5 * (i % 2)] + words(rng.randint(2, 9))
        last = len(text) - 1
        if i % 3 == 0:
            chosen = [Alternative(0, (Target(last, (t,)),), t in (3, 4)) for t in (3, 4, 5, 6)]
            found.append(Example((text,), tuple(chosen)))
        elif i % 3 == 1:
            targets = (Target(last, (7, 8)), Target(last + 1, (9,)), Target(last + 2, (10, 11, 12)))
            found.append(Example(((*text, 8, 9),), (Alternative(0, targets, True, 3.0),)))
        else:
            ways = [(*text, 7), (*text, 8, 9)]
            marks_A = [(Target(last, (7,)), Target(last + 1, (2,)))]
            marks_A += [(Target(last, (8,)), Target(last + 1, (9,)), Target(last + 2, (5,)))]
            chosen = [Alternative(a, m, a == 1, 1.0 + a) for a, m in enumerate(marks_A)]
            found.append(Example(tuple(ways), tuple(chosen)))
    return found


def engine(sources: Sources, steps: Mapping[str, float], dtype: str = "float32") -> GradientEngine:
    return GradientEngine(sources, steps, dtype=dtype)


def objective(
    model: GradientEngine, recipe: MergeRecipe, asked: list[Example], loss: Loss
) -> float:
    model.load(recipe)
    return float(np.mean(model.losses(asked, loss)))


@pytest.mark.parametrize("method", SEARCHED)
def test_a_step_agrees_with_differences_of_the_whole_objective(
    method: str, family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # float32 would hide the rest
    made = genome(method)
    steps = steps_of(made, 0.02)
    recipe, asked = replace(recipe_of(made), dtype="float64"), examples()
    if method.startswith("della"):
        middle = {"epsilon": (((0.1, 0.12),) * 3,) * 2, "density": (((0.6, 0.7),) * 3,) * 2}
        recipe = replace(recipe, values=recipe.values | middle)
    if method == "slerp":  # no two models so near that their order changes
        recipe = replace(recipe, values={"t": (((0.3,), (0.6,), (0.9,)), ((0.7,), (0.1,), (0.4,)))})
    model = engine(sources_of(made, family), steps, "float64")
    gradient = model.step(recipe, asked).gradient
    pairs = []
    for name, step in steps.items():
        mine = gradient.values.get(name, gradient.shared.get(name, np.array(gradient.scale)))
        places = list(np.ndindex(mine.shape))
        for index in places[:: max(1, len(places) // 5)]:
            ends = [
                objective(model, changed(recipe, name, index, sign * step), asked, Loss())
                for sign in (1, -1)
            ]
            pairs.append((mine[index], (ends[0] - ends[1]) / (2 * step), step))
    ours, theirs, width = np.array(pairs).T
    print(method, np.linalg.norm((ours - theirs) * width) / np.linalg.norm(theirs * width))
    assert np.linalg.norm((ours - theirs) * width) < 1e-2 * np.linalg.norm(theirs * width)


@pytest.mark.parametrize(
    "loss", [Loss(), Loss("options"), Loss("options", 1.0, 0.3), Loss("all", 0.7)]
)
def test_packed_rows_and_padded_batches_give_the_same_step(
    loss: Loss, family: dict[str, Path]
) -> None:
    made = genome("dare_ties")
    recipe, steps = recipe_of(made), steps_of(made, 0.02)
    model = engine(sources_of(made, family), steps)
    ours = model.step(recipe, examples(), loss=loss)
    assert model._supports_packing
    model._supports_packing = False
    theirs = model.step(recipe, examples(), loss=loss)
    assert np.allclose(ours.losses_Q, theirs.losses_Q, atol=1e-5)
    assert ours.tokens < theirs.tokens
    for name, values in ours.gradient.values.items():
        other = theirs.gradient.values[name]
        assert np.linalg.norm(values - other) < 1e-3 * np.linalg.norm(other)


def test_rows_recomputing_and_batches_change_nothing(family: dict[str, Path]) -> None:
    made = genome("ties")
    recipe, steps, sources = recipe_of(made), steps_of(made, 0.02), sources_of(made, family)
    whole = engine(sources, steps).step(recipe, examples())
    again = engine(sources, steps).step(recipe, examples())
    parted = GradientEngine(sources, steps, row_tokens=60, recompute=False)
    parts = parted.step(recipe, examples())
    for name, values in whole.gradient.values.items():
        assert np.array_equal(values, again.gradient.values[name])
        assert np.allclose(values, parts.gradient.values[name], rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in parted._parameters.values())


@pytest.mark.parametrize("kind", MAKES)
def test_architectures_are_packed_or_padded_and_right(kind: str, tmp_path: Path) -> None:
    folders = {n: make(tmp_path / n, kind, i) for i, n in enumerate(("base", "x", "y"))}
    sources = Sources(folders, "base")
    values = {"weight": (((0.5,), (0.6,)),) * 2, "density": (((0.6,), (0.7,)),) * 2}
    recipe = MergeRecipe("dare_ties", ("x", "y"), "base", 2, values, dtype="float32")
    steps = {"weight": 0.01, "density": 0.01}
    model = engine(sources, steps)
    ours = model.step(recipe, examples(3))
    assert model._supports_packing == (kind != "gemma2")
    model._supports_packing = False
    theirs = model.step(recipe, examples(3))
    assert np.allclose(ours.losses_Q, theirs.losses_Q, atol=1e-5)
    for name, found in ours.gradient.values.items():
        assert np.allclose(found, theirs.gradient.values[name], rtol=1e-3, atol=1e-6)


def test_an_architecture_that_reads_packed_rows_wrongly_is_padded(
    family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def causal(row_masks: RowMasks, window: int | None) -> torch.Tensor:
        size = len(row_masks.last_T)
        return torch.ones(size, size, dtype=torch.bool).tril()

    monkeypatch.setattr(RowMasks, "dense", causal)
    made = genome("dare_ties")
    model = engine(sources_of(made, family), steps_of(made, 0.02))
    model.step(recipe_of(made), examples())
    assert not model._supports_packing


def test_a_row_shows_each_token_what_its_sequence_says() -> None:
    rng = random.Random(0)
    for least in (1, 3, 16):
        starts = [tuple(rng.randrange(3) for _ in range(rng.randint(0, 30))) for _ in range(3)]
        ends = [tuple(rng.randrange(2) for _ in range(rng.randint(1, 6))) for _ in range(9)]
        sequences = [rng.choice(starts) + end for end in ends]
        row = pack(sequences, least)
        assert len(row.tokens_T) <= sum(map(len, sequences))
        for i, sequence in enumerate(sequences):
            places = [row.index(i, p) for p in range(len(sequence))]
            assert tuple(row.tokens_T[places]) == sequence
            for p, q in enumerate(places):
                seen = [k for k in range(q + 1) if row.last_T[k] >= q]
                assert seen == places[: p + 1]


def test_losses_are_what_they_say() -> None:
    scores = torch.tensor([[0.5, 0.2, 0.1]]).log()
    chosen = tuple(Alternative(0, (Target(0, (a,)),), a == 1) for a in range(3))
    example = Example(((1,),), chosen)

    def of(loss: Loss, asked: Example = example) -> float:
        return float(loss.of(scores, [asked]))

    assert of(Loss()) == pytest.approx(-np.log(0.2))
    assert of(Loss("options")) == pytest.approx(-np.log(0.2 / 0.8))
    assert of(Loss("all", 1.0)) == pytest.approx(1 - 0.2)
    assert of(Loss("all", 0.5)) == pytest.approx((1 - 0.2**0.5) / 0.5)
    assert of(Loss("all", 1e-6)) == pytest.approx(-np.log(0.2), rel=1e-4)
    assert of(Loss("options", 1.0)) == pytest.approx(1 - 0.2 / 0.8)
    assert of(Loss(), replace(example, maximized=False)) == pytest.approx(0.2)


def test_genome_points_have_steps() -> None:
    made: MergeGenome = genome("dare_ties")
    assert steps_of(made, 0.02)["density"] == pytest.approx(0.012)


def test_a_gradient_engine_answers_as_the_reference_engine_does(family: dict[str, Path]) -> None:
    """Also with a shared prefix and answers of several tokens, which need the key-value cache."""
    made = genome("dare_ties")
    recipe, sources = recipe_of(made), sources_of(made, family)
    asked = [Prompt((*range(3, 19), 20 + i), 16, 5, (4, 5, 6)) for i in range(4)]
    reference, model = TransformersEngine(sources), engine(sources, steps_of(made, 0.02))
    reference.load(recipe)
    model.step(recipe, examples())
    answers = model.answer(asked)
    assert [a.tokens for a in answers] == [a.tokens for a in reference.answer(asked)]
    for ours, theirs in zip(answers, reference.answer(asked), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
