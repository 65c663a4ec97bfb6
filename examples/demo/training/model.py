"""The demo's architecture: a Mistral small enough to train on one core, and its tokenizer."""

import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM
from world import vocabulary

WORDS = vocabulary()
ID = {word: i for i, word in enumerate(WORDS)}
PAD, BOS, EOS = 0, 1, 2
_HEADS, _KV_HEADS, _HEAD = 4, 2, 32


def new_model(layers: int, hidden: int) -> MistralForCausalLM:
    """A model with weights drawn from torch's generator."""
    config = MistralConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        sliding_window=None,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = MistralForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, 0.0, _spread(name, weight.shape[1], layers))
    for layer in model.model.layers:
        _start_as_matcher(layer.self_attn)
    return model


def _spread(name: str, inputs: int, layers: int) -> float:
    if "embed" in name:
        return 0.5
    if "lm_head" in name:
        return 0.02
    deep = name.endswith(("o_proj.weight", "down_proj.weight"))
    return 1 / math.sqrt(inputs) / (math.sqrt(2 * layers) if deep else 1)


@torch.no_grad()
def _start_as_matcher(attention: torch.nn.Module) -> None:
    """Let one head of each group attend to equal tokens (query = key): the circuits that copy an
    option form about ten times sooner."""
    group = _HEADS // _KV_HEADS
    for kv in range(_KV_HEADS):
        rows = slice(kv * group * _HEAD, kv * group * _HEAD + _HEAD)
        keys = attention.k_proj.weight[kv * _HEAD : (kv + 1) * _HEAD]
        attention.q_proj.weight[rows] = keys


@torch.no_grad()
def deepened(model: MistralForCausalLM, layers: int) -> MistralForCausalLM:
    """The same function with more layers: behind each stand blocks that add nothing yet
    (Wu et al. 2024, "LLaMA Pro", section 3.2)."""
    deep = new_model(layers, model.config.hidden_size)
    copies = layers // len(model.model.layers)
    state = model.state_dict()
    grown = {}
    for name in deep.state_dict():
        if not name.startswith("model.layers."):
            grown[name] = state[name]
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        weight = state[f"model.layers.{int(layer) // copies}.{rest}"]
        added = int(layer) % copies and rest.endswith(("o_proj.weight", "down_proj.weight"))
        grown[name] = torch.zeros_like(weight) if added else weight
    deep.load_state_dict(grown)
    return deep


def save(model: MistralForCausalLM, folder: Path) -> None:
    """A Hugging Face folder in bfloat16, with tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = MistralForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n")
