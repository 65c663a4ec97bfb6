"""Tiny models of several makes, through merge, engine, export and reload."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import WORDS, by_mergekit, point
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    Mistral3Config,
    Olmo3Config,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from objectives.engines.engine import Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.merge.errors import SourceError
from objectives.merge.export import MERGEKIT_FILE, export
from objectives.merge.recipe import MergeRecipe
from objectives.merge.sources import Sources
from study.genome import Genome
from study.genome_config import GenomeConfig, SpaceConfig

MAKES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama-tied": (LlamaConfig, {"tie_word_embeddings": True, "attention_bias": False}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gemma3-text": (Gemma3TextConfig, {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "llama-bias": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "smollm3": (SmolLM3Config, {}),
    "olmo3": (Olmo3Config, {}),
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 16,
    "fullatt_block_indexes": [0],
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
SEEING: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        Gemma3Config,
        {"head_dim": 8, "query_pre_attn_scalar": 8},
        {"vision_config": _VISION, "mm_tokens_per_image": 4, "image_token_index": 5},
    ),
    "mistral3": (
        Mistral3Config,
        {"head_dim": 8, "model_type": "mistral"},
        {"vision_config": _VISION | {"model_type": "pixtral"}, "tie_word_embeddings": False},
    ),
    "mistral3-tied": (
        Mistral3Config,
        {"head_dim": 8, "model_type": "mistral"},
        {"vision_config": _VISION | {"model_type": "pixtral"}},
    ),
    "qwen2.5-vl": (
        Qwen2_5_VLConfig,
        {"rope_parameters": _MROPE},
        {"vision_config": _QWEN_VISION, "image_token_id": 5, "video_token_id": 6},
    ),
}
"""Models that read images too: the class, keys of the text part, and keys beside it."""


def make(folder: Path, make: str, seed: int, hidden: int = 16, words: list[str] = WORDS) -> Path:
    kind, fields, beside = SEEING[make] if make in SEEING else (*MAKES[make], {})
    text = {
        "vocab_size": len(words),
        "hidden_size": hidden,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    } | fields
    config = kind(text_config=text, **beside) if beside else kind(**text)
    torch.manual_seed(seed)
    auto = AutoModelForImageTextToText if beside else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def recipe_of(method: str, dtype: str = "float32") -> MergeRecipe:
    config = GenomeConfig(
        models=("x", "y"), base_model="base", merge_method=method, layer_granularity=1
    )
    genome = Genome(config, SpaceConfig(), 2)
    return MergeRecipe.from_dict(genome.recipe(point(genome, 4)).to_dict() | {"dtype": dtype})


@pytest.mark.parametrize("kind", MAKES)
def test_a_merge_is_answered_exported_and_loaded_again(kind: str, tmp_path: Path) -> None:
    folders = {n: make(tmp_path / n, kind, i) for i, n in enumerate(("base", "x", "y"))}
    sources, recipe = Sources(folders, "base"), recipe_of("dare_ties")
    engine = TransformersEngine(sources)
    engine.load(recipe)
    prompt = Prompt((0, 5, 7, 9), 2, 3, tuple(range(len(WORDS))))
    [answer] = engine.answer([prompt])
    assert answer.finite
    references = {label: str(folder) for label, folder in folders.items()}
    out = export(recipe, sources, references, tmp_path / "out", "card")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert model.config.architectures == sources.reference.config["architectures"]
    logits = model(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(dim=-1)
    assert answer.logprobs == pytest.approx(logits.tolist(), abs=1e-4)
    written = load_file(out / "model.safetensors")
    assert written.keys() == load_file(folders["base"] / "model.safetensors").keys()


@pytest.mark.parametrize("kind", SEEING)
def test_the_text_part_of_a_model_that_reads_images_is_merged(kind: str, tmp_path: Path) -> None:
    folders = {n: make(tmp_path / n, kind, i) for i, n in enumerate(("base", "x", "y"))}
    sources = Sources(folders, "base")
    sources.check_model()
    engine = TransformersEngine(sources)
    prompt = Prompt((0, 5, 7, 9), 2, 3, tuple(range(len(WORDS))))
    alone = MergeRecipe.single("x", 2, "float32")
    engine.load(alone)
    [answer] = engine.answer([prompt])
    whole = AutoModelForImageTextToText.from_pretrained(folders["x"], dtype=torch.float32)
    logits = whole(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(dim=-1)
    assert answer.logprobs == pytest.approx(logits.tolist(), abs=1e-4)
    references = {label: str(folder) for label, folder in folders.items()}
    out = export(alone, sources, references, tmp_path / "out", "card")
    written = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    again = written(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(dim=-1)
    assert again.tolist() == pytest.approx(logits.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("method", ["task_arithmetic", "breadcrumbs"])
def test_a_merge_equals_mergekits(kind: str, method: str, tmp_path: Path) -> None:
    folders = {n: make(tmp_path / n, kind, i) for i, n in enumerate(("base", "x", "y"))}
    references = {label: str(folder) for label, folder in folders.items()}
    recipe = recipe_of(method)
    out = export(recipe, Sources(folders, "base"), references, tmp_path / "ours", "card")
    ours = load_file(out / "model.safetensors")
    config = yaml.safe_load((out / MERGEKIT_FILE).read_text())
    theirs = by_mergekit(config, tmp_path / "theirs")
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
    assert ours.keys() == theirs.keys()


def test_two_makes_do_not_merge(tmp_path: Path) -> None:
    llama, qwen = make(tmp_path / "llama", "llama", 0), make(tmp_path / "qwen2", "qwen2", 1)
    with pytest.raises(
        SourceError,
        match="cannot be merged: architectures Qwen2ForCausalLM and LlamaForCausalLM",
    ):
        Sources({"llama": llama, "qwen2": qwen}, "llama")


def test_an_architecture_that_transformers_does_not_make_of_the_config_is_named(
    tmp_path: Path,
) -> None:
    folder = make(tmp_path / "m", "llama", 0)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OtherForCausalLM"))
    with pytest.raises(
        SourceError, match=r"'OtherForCausalLM' is not one that can be merged: .* LlamaForC"
    ):
        Sources({"m": folder}, "m")
