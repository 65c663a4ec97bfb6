"""The engine of paths, compared with the engine of merges and with transformers."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from objectives.engines.engine import Prompt
from objectives.engines.paths import PathEngine
from objectives.engines.transformers import TransformersEngine
from objectives.errors import EngineError
from objectives.merge.path import merged_path, path_config
from objectives.merge.recipe import Hop, MergeRecipe, PathRecipe
from objectives.merge.stores import Files
from objectives.models.sources import Sources

RANDOM = random.Random(5)
PROMPTS = [
    Prompt(tuple(RANDOM.choices(range(2, 30), k=length)), 2 if length > 3 else 0, 4, (3, 4, 5))
    for length in (3, 5, 5, 9, 12)
]


@pytest.fixture(scope="module")
def sources(family: dict[str, Path]) -> Sources:
    return Sources({name: family[name] for name in ("x", "y", "z")}, "x", has_base=False)


@pytest.fixture(scope="module")
def engine(sources: Sources) -> PathEngine:
    return PathEngine(sources)


def exported(recipe: PathRecipe, sources: Sources, folder: Path) -> Path:
    """Write the path as a folder for transformers."""
    folder.mkdir()
    tensors = {name: t.contiguous() for name, t in merged_path(recipe, sources, Files(sources))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = AutoConfig.for_model(**path_config(recipe, sources))
    config.save_pretrained(folder)
    return folder


def answers_of(folder: Path) -> list[tuple[list[int], list[float]]]:
    """Return the greedy tokens and the options' log-probabilities, from transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    results = []
    for prompt in PROMPTS:
        with torch.inference_mode():
            ids = torch.tensor([prompt.tokens])
            first = model(ids).logits[0, -1].log_softmax(-1)[list(prompt.options)]
            tokens = []
            for _ in range(prompt.max_tokens):
                token = int(model(ids).logits[0, -1].argmax())
                if token == 1:
                    break
                tokens.append(token)
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        results.append((tokens, first.tolist()))
    return results


def random_path(seed: int) -> PathRecipe:
    draw = random.Random(seed)
    hops = tuple(
        Hop(draw.choice("xyz"), draw.randrange(4), draw.choice([1.0, 0.5, 1.2]))
        for _ in range(draw.randrange(1, 9))
    )
    return PathRecipe(hops, draw.choice("xyz"))


@pytest.mark.parametrize("model", ["x", "y", "z"])
def test_the_path_of_a_model_answers_as_the_engine_of_merges(
    sources: Sources, engine: PathEngine, model: str
) -> None:
    merges = TransformersEngine(sources)
    recipe = MergeRecipe.single(model, 4)
    merges.load(recipe)
    engine.load(random_path(9))
    for same in (recipe, PathRecipe.whole(model, 4)):
        engine.load(same)
        assert engine.answer(PROMPTS) == merges.answer(PROMPTS)


@pytest.mark.parametrize("seed", range(6))
def test_a_path_answers_as_its_exported_model(
    sources: Sources, engine: PathEngine, tmp_path: Path, seed: int
) -> None:
    recipe = random_path(seed)
    engine.load(recipe)
    answers = engine.answer(PROMPTS)
    expected = answers_of(exported(recipe, sources, tmp_path / "path"))
    for answer, (tokens, logprobs) in zip(answers, expected, strict=True):
        assert list(answer.tokens) == tokens
        torch.testing.assert_close(list(answer.logprobs), logprobs, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_used_twice_has_keys_and_values_for_each_use(
    sources: Sources, engine: PathEngine, tmp_path: Path
) -> None:
    twice = PathRecipe((Hop("x", 0), Hop("x", 1), Hop("x", 1), Hop("x", 1), Hop("x", 3)), "x")
    engine.load(twice)
    expected = answers_of(exported(twice, sources, tmp_path / "twice"))
    assert [list(a.tokens) for a in engine.answer(PROMPTS)] == [tokens for tokens, _ in expected]


def test_layers_are_referred_to_and_only_scaled_weights_are_copied(engine: PathEngine) -> None:
    engine.load(PathRecipe((Hop("y", 2), Hop("y", 2, 0.5)), "x"))
    plain, half = engine._model.model.layers
    original = engine._library["y"][2]
    copied = [
        name
        for name, parameter in half.named_parameters()
        if parameter.data_ptr() != original.get_parameter(name).data_ptr()
    ]
    assert sorted(copied) == ["mlp.down_proj.weight", "self_attn.o_proj.weight"]
    assert all(
        parameter.data_ptr() == original.get_parameter(name).data_ptr()
        for name, parameter in plain.named_parameters()
    )
    assert [layer.self_attn.layer_idx for layer in (plain, half)] == [0, 1]


def test_what_is_no_path_of_these_models_is_refused(engine: PathEngine) -> None:
    with pytest.raises(EngineError, match="x has no layer 7"):
        engine.load(PathRecipe((Hop("x", 7),), "x"))
    with pytest.raises(EngineError, match="the path is in float32, the engine in bfloat16"):
        engine.load(PathRecipe((Hop("x", 0),), "x", "float32"))
    single = MergeRecipe.single("x", 4)
    merge = dataclasses.replace(single, models=("x", "y"), values={"weight": (((0.5,), (0.5,)),)})
    with pytest.raises(EngineError, match="no merge of several models"):
        engine.load(merge)
