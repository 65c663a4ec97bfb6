"""Tiny random models of several architectures."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from objectives.merge.recipe import MergeRecipe
from study.config.genome import GenomeConfig, SpaceConfig
from study.search.genome import Genome
from tests.objectives.merge.test_architectures import MAKES
from tests.support.models import WORDS, point


def make(folder: Path, make: str, seed: int, hidden: int = 16, words: list[str] = WORDS) -> Path:
    kind, fields = MAKES[make]
    config = kind(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        **fields,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
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
