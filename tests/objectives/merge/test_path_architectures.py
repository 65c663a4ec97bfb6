"""Which architectures allow scales, idle layers and other orders: compared with their numbers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    Glm4Config,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    Olmo2Config,
    PhiConfig,
    PretrainedConfig,
    Starcoder2Config,
)

from objectives.errors import SourceError
from objectives.export.export import export
from objectives.export.manifest import MERGEKIT_FILE
from objectives.merge.path import (
    check_layers,
    check_path,
    fixed_places,
    merged_path,
    path_config,
    unscalable,
    without_outputs,
)
from objectives.merge.recipe import Hop, PathRecipe
from objectives.merge.stores import Files
from objectives.models.sources import Sources
from tests.support.architectures import MAKES, TINY, make
from tests.support.models import WORDS

LAYERS = 3
_COMMON = TINY | {"num_hidden_layers": LAYERS}
OTHERS: dict[str, PretrainedConfig] = {
    "glm4": Glm4Config(**_COMMON, head_dim=8),
    "granite": GraniteConfig(**_COMMON),
    "cohere2": Cohere2Config(**_COMMON),
    "olmo2": Olmo2Config(**_COMMON),
    "phi": PhiConfig(**(_COMMON | {"num_key_value_heads": 2})),
    "starcoder2": Starcoder2Config(**_COMMON),
    "gpt2": GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=LAYERS, n_head=2, bos_token_id=0, eos_token_id=1
    ),
}


def model_folder(folder: Path, name: str) -> Path:
    """Write a random model with the tokenizer of a tiny one. Its weights are large, so that the
    epsilon of normalizations does not matter."""
    make(folder, name if name in MAKES else "llama", 1)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(1)
    config = OTHERS[name] if name in OTHERS else AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += (0.1 if parameter.ndim == 1 else 1.0) * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def logits(recipe: PathRecipe, sources: Sources) -> torch.Tensor:
    config = AutoConfig.for_model(**path_config(recipe, sources))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(dict(merged_path(recipe, sources, Files(sources))), strict=False)
    model.tie_weights()
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([[0, 5, 9, 3, 7, 2]])).logits
    return found


@pytest.mark.parametrize("name", [*MAKES, *OTHERS])
def test_scales_and_idle_layers_are_allowed_where_they_work(name: str, tmp_path: Path) -> None:
    sources = Sources({"m": model_folder(tmp_path / "m", name)}, "m", has_base=False)
    check_layers(sources)
    whole = PathRecipe.whole("m", sources.num_layers, "float32")
    halved = PathRecipe(tuple(Hop("m", hop.layer, 0.5) for hop in whole.hops), "m", "float32")
    padded = whole.padded(sources.num_layers + 2)
    plain = logits(whole, sources)

    change = float((logits(halved, sources) - plain).abs().max() / plain.abs().max())
    if without_outputs(sources) is None:
        assert (unscalable(sources) is None) == (change > 0.01), change
    else:
        assert unscalable(sources) is not None
    is_idle = torch.equal(logits(padded, sources), plain)
    assert (without_outputs(sources) is None) == is_idle
    for recipe, reason in ((halved, unscalable(sources)), (padded, without_outputs(sources))):
        if reason is None:
            check_path(recipe, sources)
        else:
            with pytest.raises(SourceError, match="cannot be scaled"):
                check_path(recipe, sources)
    if without_outputs(sources) is not None:
        assert fixed_places(sources) is not None


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (
            GPTNeoConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                num_layers=4,
                num_heads=2,
                attention_types=[[["global", "local"], 2]],
                window_size=8,
                bos_token_id=0,
                eos_token_id=1,
            ),
            "attention_layers",
        ),
        (
            GPT2Config(
                vocab_size=len(WORDS),
                n_embd=16,
                n_layer=4,
                n_head=2,
                bos_token_id=0,
                eos_token_id=1,
                scale_attn_by_inverse_layer_idx=True,
            ),
            "scale_attn_by_inverse_layer_idx",
        ),
    ],
)
def test_layers_that_depend_on_their_number_are_refused(
    config: PretrainedConfig, key: str, tmp_path: Path
) -> None:
    make(tmp_path / "m", "llama", 1)
    (tmp_path / "m" / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "m")
    sources = Sources({"m": tmp_path / "m"}, "m", has_base=False)
    with pytest.raises(SourceError, match=f"cannot change places: with {key}"):
        check_layers(sources)


def test_mergekits_file_is_written_only_if_its_config_is_right(tmp_path: Path) -> None:
    """mergekit copies `layer_types`, which has a value for each layer."""
    sources = Sources({"m": model_folder(tmp_path / "m", "qwen3")}, "m", has_base=False)
    own = json.loads((tmp_path / "m" / "config.json").read_text())
    assert len(own["layer_types"]) == sources.num_layers
    whole = PathRecipe.whole("m", sources.num_layers, "float32")
    longer = PathRecipe((whole.hops[0], *whole.hops), "m", "float32")
    for recipe, is_written in ((whole, True), (longer, False)):
        out = tmp_path / f"out-{is_written}"
        export(recipe, sources, {"m": str(tmp_path / "m")}, out, "")
        assert (out / MERGEKIT_FILE).exists() == is_written
