"""Comparison of configs: models that compute alike are merged, others are refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from objectives.engines.engine import Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.errors import SourceError
from objectives.export.export import export
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from tests.support.architectures import MAKES, make
from tests.support.models import WORDS, MakeModel

PROMPT = Prompt((0, 5, 7, 9, 4, 8), 0, 1, tuple(range(len(WORDS))))
ROPE = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}


def edited(folder: Path, out: Path, **changes: Any) -> Path:
    """Copy a model and change keys of its config.json; None removes a key."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (out / "config.json").write_text(json.dumps(kept))
    return out


def by_transformers(folder: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits: torch.Tensor = model(torch.tensor([PROMPT.tokens])).logits[0, -1]
    return logits.log_softmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": None, "rope_theta": 10000.0},
        {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": None},
        {"rope_parameters": None},
        {"dtype": None, "torch_dtype": "bfloat16", "use_cache": False},
        {"transformers_version": "4.40.0", "_name_or_path": "org/a", "unsloth_version": "2024.9"},
        {"attention_dropout": 0.1, "initializer_range": 0.5, "pretraining_tp": 2},
        {"eos_token_id": [1, 3], "pad_token_id": 2, "max_position_embeddings": 64},
        {"sliding_window": 4096},
        {"hidden_act": None, "rms_norm_eps": None},
        {"quantization_config": {"quant_method": "gptq"}, "auto_map": {"AutoConfig": "x.Y"}},
        {"task_specific_params": {"a": {"b": 1}}, "id2label": {"0": "a", "1": "b", "2": "c"}},
        {"max_length": 12, "temperature": 0.3, "attn_implementation": "org/kernel"},
    ],
)
def test_equivalent_spellings_and_irrelevant_keys_may_differ(
    family: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = edited(family["x"], tmp_path / "x", **changes)
    sources = Sources({"base": family["base"], "x": other}, "base")
    sources.check_model()
    assert not sources.own_config_labels
    turned = Sources({"x": other, "base": family["base"]}, "x")
    turned.check_model()
    config = turned.merged_config("float32")
    assert not {"auto_map", "quantization_config", "attn_implementation"} & config.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (ROPE, r"rope_parameters.rope_theta 500.0 and 10000.0; if .* genome.config_source"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_parameters.*linear",
        ),
        ({"sliding_window": 3}, "sliding_window 3 and None; if .* genome.config_source"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps 0.001 and 1e-06$"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' and 'silu'$"),
        ({"num_attention_heads": 1, "head_dim": 16}, "num_attention_heads 1 and 2"),
        ({"hidden_size": 32}, "hidden_size 32 and 16"),
        ({**ROPE, "rms_norm_eps": 1e-3}, "rms_norm_eps 0.001 and 1e-06$"),
    ],
)
def test_configs_that_affect_answers_are_refused_with_both_values(
    family: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = edited(family["x"], tmp_path / "x", **changes)
    with pytest.raises(SourceError, match=f"x and base cannot be merged: .*{message}"):
        Sources({"base": family["base"], "x": other}, "base")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}),
        ("gemma2", {"attn_logit_softcapping": 5.0}),
        ("gemma2", {"query_pre_attn_scalar": 64}),
        ("qwen3", {"rms_norm_eps": 0.1}),
    ],
)
def test_keys_of_other_architectures_are_compared_too(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    base = make(tmp_path / "base", kind, 0)
    with pytest.raises(SourceError, match=[*changes][-1]):
        Sources({"base": base, "x": edited(base, tmp_path / "x", **changes)}, "base")


@pytest.mark.parametrize("source", ["base", "x"])
def test_with_a_config_source_a_single_model_keeps_its_own_positions(
    family: dict[str, Path], tmp_path: Path, source: str
) -> None:
    folders = {
        "base": family["base"],
        "x": edited(family["x"], tmp_path / "x", **ROPE),
        "y": edited(family["y"], tmp_path / "y", sliding_window=2),
    }
    sources = Sources(folders, "base", config_source=source)
    engine = TransformersEngine(sources)
    for label in ("y", "base", "x", "y"):
        engine.load(MergeRecipe.single(label, 4, "float32"))
        [answer] = engine.answer([PROMPT])
        assert answer.logprobs == pytest.approx(by_transformers(folders[label]), abs=1e-5), label
    even = {"weight": (((0.5,), (0.5,)),)}
    merge = MergeRecipe("linear", ("x", "y"), None, 4, even, normalize=True, dtype="float32")
    engine.load(merge)
    [answer] = engine.answer([PROMPT])
    references = {label: str(folder) for label, folder in folders.items()}
    out = export(merge, sources, references, tmp_path / "out", "card")
    assert answer.logprobs == pytest.approx(by_transformers(out), abs=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == (500.0 if source == "x" else 10000.0)
    alone = export(
        MergeRecipe.single("x", 4, "float32"), sources, references, tmp_path / "alone", "card"
    )
    assert by_transformers(alone) == pytest.approx(by_transformers(folders["x"]), abs=1e-5)


def test_a_stored_head_that_differs_is_not_tied(family: dict[str, Path], tmp_path: Path) -> None:
    other = edited(family["x"], tmp_path / "x", tie_word_embeddings=True)
    engine = TransformersEngine(Sources({"base": family["base"], "x": other}, "base"))
    engine.load(MergeRecipe.single("x", 4, "float32"))
    [answer] = engine.answer([PROMPT])
    assert answer.logprobs == pytest.approx(by_transformers(other), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, r'"architectures" is missing or empty; set it to \["MistralForC'),
        ({"architectures": "MistralForCausalLM"}, "must be a list of names"),
        (
            {"architectures": ["LlamaForCausalLM"]},
            "model_type mistral transformers creates MistralForCausalLM",
        ),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "mine"}, "does not support model_type 'mine'"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}, "'mine' needs code .* never"),
        ({"model_type": ["mistral"]}, r"does not support model_type \['mistral'\]"),
        ({"model_type": "t5", "architectures": ["T5Model"]}, "no causal language model"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000; must be -1 to 2048"),
        ({"num_hidden_layers": 1e300}, "num_hidden_layers"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"hidden_size": 10**15}, "10000000|cannot create the model"),
        ({"vocab_size": 99}, r"embed_tokens.weight is \[38, 16\] in the model's files, but \[99"),
        ({"rope_parameters": {"rope_type": "none", "rope_theta": 1.0}}, "cannot create the model"),
    ],
)
def test_an_unusable_config_is_reported(
    family: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = edited(family["x"], tmp_path / "x", **changes)
    with pytest.raises(SourceError, match=message) as caught:
        Sources({"x": other}, "x").check_model()
    assert str(caught.value).startswith("x: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.layers.0.mlp.up_proj.qweight", torch.zeros(2, 2, dtype=torch.int32)),
        ("model.layers.0.mlp.up_proj.weight_scale", torch.ones(1)),
        ("model.layers.0.mlp.up_proj.weight.absmax", torch.ones(1)),
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(24, 16, dtype=torch.float8_e4m3fn)),
    ],
)
def test_packed_weights_are_reported_as_quantized(
    family: dict[str, Path], tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    settings = {"quant_method": "some", "bits": 4}
    other = edited(family["x"], tmp_path / "x", quantization_config=settings)
    tensors = load_file(other / "model.safetensors") | {name: tensor}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"x: its weights are quantized \(some; tensor model"):
        Sources({"base": family["base"], "x": other}, "base")


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    from transformers import MixtralConfig

    MAKES["mixtral"] = (MixtralConfig, {"num_local_experts": 2})
    try:
        folder = make(tmp_path / "m", "mixtral", 0)
    finally:
        del MAKES["mixtral"]
    with pytest.raises(SourceError, match="m: MixtralForCausalLM is a mixture of experts"):
        Sources({"m": folder}, "m")


KEYS = (
    *("architectures", "model_type", "hidden_size", "num_attention_heads", "num_hidden_layers"),
    *("num_key_value_heads", "head_dim", "intermediate_size", "vocab_size", "rope_parameters"),
    *("rope_scaling", "rope_theta", "sliding_window", "layer_types", "hidden_act", "dtype"),
    *("tie_word_embeddings", "text_config", "vision_config", "auto_map", "quantization_config"),
    *("torch_dtype", "attn_implementation", "num_labels", "id2label", "per_layer_config"),
    *("_name_or_path", "pad_token_id", "eos_token_id", "max_position_embeddings", "odd\0key"),
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from([10**9, 10**18, -1, 0, 1e308, math.inf, "mistral", "llama", "gemma3", "\0"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@example(changes={"model_type": "qwen2", "num_hidden_layers": 10**9})
@example(changes={"num_labels": 10**9})
@example(changes={"vision_config": {"num_hidden_layers": 10**9}})
@example(changes={"rope_parameters": {"rope_type": "yarn"}})
@example(changes={"architectures": ["MistralForCausalLM"] * 2})
def test_any_config_opens_or_is_refused(
    family: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "x"
    if not folder.exists():
        shutil.copytree(family["x"], folder)
    config = json.loads((family["x"] / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    error = None
    for folders in ({"base": family["base"], "x": folder}, {"x": folder}):
        try:
            Sources(folders, next(iter(folders))).check_model()
        except SourceError as refusal:
            error = refusal
    assert error is None or str(error).isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "is not a mapping"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, "nested more than 64 levels"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
    ],
)
def test_an_invalid_config_file_is_reported(
    make_model: MakeModel, tmp_path: Path, data: bytes, message: str
) -> None:
    folder = make_model(tmp_path / "m", 0)
    (folder / "config.json").write_bytes(data)
    with pytest.raises(SourceError, match=rf"m: .*config\.json.*{message}"):
        Sources({"m": folder}, "m")
