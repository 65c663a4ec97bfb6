"""Tiny random models of several architectures."""

from pathlib import Path
from typing import Any

import torch
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

from objectives.merge.recipe import MergeRecipe
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import MergeGenome
from tests.support.models import WORDS, point

TINY: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


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
"""Models with image input: the config class, the keys of its text config, and the other keys."""


def make(folder: Path, make: str, seed: int, hidden: int = 16, words: list[str] = WORDS) -> Path:
    kind, fields, other = SEEING[make] if make in SEEING else (*MAKES[make], {})
    text = TINY | {"vocab_size": len(words), "hidden_size": hidden} | fields
    config = kind(text_config=text, **other) if other else kind(**text)
    torch.manual_seed(seed)
    auto = AutoModelForImageTextToText if other else AutoModelForCausalLM
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
    genome = MergeGenome(config, SpaceConfig(), 2)
    return MergeRecipe.from_dict(genome.recipe(point(genome, 4)).to_dict() | {"dtype": dtype})
