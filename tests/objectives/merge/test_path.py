"""Paths through the layers of several models, compared with transformers and mergekit."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Qwen2Config

from objectives.errors import SourceError
from objectives.merge.path import (
    check_path,
    merged_path,
    path_config,
    path_tensors,
    to_passthrough,
    unscalable,
)
from objectives.merge.recipe import Hop, PathRecipe
from objectives.merge.stores import Files
from objectives.models.sources import Sources
from tests.support.models import MakeModel, by_mergekit

TOKENS = torch.tensor([[0, 5, 9, 3, 7, 2]])


@pytest.fixture(scope="module")
def sources(family: dict[str, Path]) -> Sources:
    return Sources({name: family[name] for name in ("x", "y")}, "x", has_base=False)


def model_of(recipe: PathRecipe, sources: Sources) -> Any:
    """Return the path's model in transformers."""
    config = path_config(recipe, sources)
    parsed = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(parsed, dtype=torch.float32)
    model.load_state_dict(dict(merged_path(recipe, sources, Files(sources))))
    return model.eval()


def logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits


def path(*hops: tuple[str, int] | tuple[str, int, float], ends: str = "x") -> PathRecipe:
    return PathRecipe(tuple(Hop(*hop) for hop in hops), ends, "float32")


MIXED = path(("x", 0), ("x", 1), ("y", 1, 0.7), ("y", 2), ("x", 2, 1.3), ("y", 2), ("x", 3))


def test_the_whole_path_of_a_model_is_the_model(sources: Sources, family: dict[str, Path]) -> None:
    whole = PathRecipe.whole("y", 4, "float32")
    assert whole.copied_model == "y"
    assert MIXED.copied_model is None
    ours = model_of(whole, sources)
    theirs = AutoModelForCausalLM.from_pretrained(family["y"])
    assert torch.equal(logits(ours), logits(theirs))


def test_a_path_computes_its_layers_in_their_order(
    sources: Sources, family: dict[str, Path]
) -> None:
    """The layers of the models themselves are called, and their parts are scaled by hooks."""
    models = {name: AutoModelForCausalLM.from_pretrained(family[name]).eval() for name in "xy"}
    inner = models["x"].model
    states = inner.embed_tokens(TOKENS)
    positions = torch.arange(TOKENS.shape[1])[None]
    rotary = inner.rotary_emb(states, positions)
    with torch.inference_mode():
        for hop in MIXED.hops:
            layer = models[hop.model].model.layers[hop.layer]
            attended, _ = layer.self_attn(
                layer.input_layernorm(states), position_embeddings=rotary, attention_mask=None
            )
            states = states + hop.scale * attended
            states = states + hop.scale * layer.mlp(layer.post_attention_layernorm(states))
        expected = models["x"].lm_head(inner.norm(states))
    torch.testing.assert_close(logits(model_of(MIXED, sources)), expected)


def test_weights_of_inputs_are_scales_of_outputs(sources: Sources, family: dict[str, Path]) -> None:
    """Akiba et al. multiply the input of each layer; path.py says which scales do the same."""
    weights = [1.0, 0.8, 1.25, 0.9]
    model = AutoModelForCausalLM.from_pretrained(family["x"]).eval()
    for layer, weight in zip(model.model.layers, weights, strict=True):
        layer.register_forward_pre_hook(
            lambda _, args, weight=weight: (weight * args[0], *args[1:])
        )
    product, hops = 1.0, []
    for number, weight in enumerate(weights):
        product *= weight
        hops.append(Hop("x", number, 1 / product))
    ours = logits(model_of(PathRecipe(tuple(hops), "x", "float32"), sources))
    torch.testing.assert_close(ours, logits(model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mergekits_passthrough_writes_the_same_bits(
    sources: Sources, family: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    recipe = dataclasses.replace(MIXED, dtype=dtype)
    config = to_passthrough(recipe, {name: str(family[name]) for name in "xy"})
    assert config is not None
    assert [s["sources"][0]["layer_range"] for s in config["slices"][:2]] == [[0, 2], [1, 2]]
    theirs = by_mergekit(config, tmp_path)
    ours = dict(merged_path(recipe, sources, Files(sources)))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype == getattr(torch, dtype)
        assert torch.equal(tensor, theirs[name]), name
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["num_hidden_layers"] == path_config(recipe, sources)["num_hidden_layers"] == 7


def test_a_path_whose_ends_are_of_another_model_has_no_passthrough() -> None:
    references = {"x": "x", "y": "y"}
    assert to_passthrough(path(("y", 0), ("x", 1)), references) is None
    assert to_passthrough(path(("x", 0), ("y", 1)), references) is None
    assert to_passthrough(path(("x", 0), ("y", 1), ends="y"), references) is None


def test_a_path_passes_through_json() -> None:
    assert PathRecipe.from_dict(json.loads(json.dumps(MIXED.to_dict()))) == MIXED


@pytest.mark.parametrize(
    ("hops", "message"),
    [
        ([], "a path needs at least one layer"),
        ([("z", 0)], "z is not a model of this path"),
        ([("x", 4)], "x has no layer 4; its layers are 0 to 3"),
        ([("x", -1)], "x has no layer -1"),
    ],
)
def test_a_path_that_does_not_exist_is_refused(
    sources: Sources, hops: Sequence[tuple[str, int]], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        check_path(path(*hops), sources)
    check_path(MIXED, sources)


def saved(config: Any, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


def with_tokenizer(folder: Path, make_model: MakeModel, scratch: Path) -> Path:
    for file in make_model(scratch, 0).glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_layer_with_normalized_outputs_cannot_be_scaled(
    tmp_path: Path, make_model: MakeModel
) -> None:
    folder = with_tokenizer(
        saved(Gemma2Config(**SMALL), tmp_path / "g"), make_model, tmp_path / "t"
    )
    gemma = Sources({"g": folder}, "g", has_base=False)
    assert "normalizes the outputs" in str(unscalable(gemma))
    whole = PathRecipe.whole("g", 4, "float32")
    check_path(whole, gemma)
    scaled = dataclasses.replace(whole, hops=(*whole.hops[:3], Hop("g", 3, 0.5)))
    with pytest.raises(SourceError, match="g: layers cannot be scaled: Gemma2ForCausalLM"):
        check_path(scaled, gemma)


def test_each_layer_keeps_its_kind_of_attention_and_its_biases(
    tmp_path: Path, make_model: MakeModel
) -> None:
    """Every second layer sees a window; a path of the others is not cut off."""
    kinds = ["full_attention", "sliding_attention"] * 2
    config = Qwen2Config(
        **SMALL, layer_types=kinds, use_sliding_window=True, sliding_window=3, max_window_layers=0
    )
    folder = with_tokenizer(saved(config, tmp_path / "q"), make_model, tmp_path / "t")
    qwen = Sources({"q": folder}, "q", has_base=False)
    recipe = PathRecipe((Hop("q", 0), Hop("q", 1, 0.5), Hop("q", 1), Hop("q", 2)), "q", "float32")
    data = path_config(recipe, qwen)
    assert data["layer_types"] == [kinds[0], kinds[1], kinds[1], kinds[2]]
    by_name = {tensor.name: tensor for tensor in path_tensors(recipe, qwen)}
    assert by_name["model.layers.1.mlp.down_proj.weight"].scale == 0.5
    assert by_name["model.layers.1.self_attn.q_proj.bias"].scale == 1.0
    assert by_name["model.layers.2.mlp.down_proj.weight"].scale == 1.0
    model = model_of(recipe, qwen)
    windows = [layer.self_attn.sliding_window for layer in model.model.layers]
    assert windows == [None, 3, 3, None]
