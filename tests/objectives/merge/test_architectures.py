"""Tiny models of several architectures are merged, evaluated, exported and loaded again."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from objectives.engines.engine import Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.errors import SourceError
from objectives.export.export import MERGEKIT_FILE, export
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from tests.support.architectures import MAKES, SEEING, make, recipe_of
from tests.support.models import WORDS, by_mergekit


@pytest.mark.parametrize("kind", MAKES)
def test_a_merge_can_be_evaluated_exported_and_loaded_again(kind: str, tmp_path: Path) -> None:
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


def test_different_architectures_cannot_be_merged(tmp_path: Path) -> None:
    llama, qwen = make(tmp_path / "llama", "llama", 0), make(tmp_path / "qwen2", "qwen2", 1)
    with pytest.raises(
        SourceError,
        match="cannot be merged: architectures Qwen2ForCausalLM and LlamaForCausalLM",
    ):
        Sources({"llama": llama, "qwen2": qwen}, "llama")


def test_an_architecture_that_does_not_match_the_config_is_reported(
    tmp_path: Path,
) -> None:
    folder = make(tmp_path / "m", "llama", 0)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OtherForCausalLM"))
    with pytest.raises(SourceError, match=r"\['OtherForCausalLM'\] cannot be merged: .* LlamaForC"):
        Sources({"m": folder}, "m")
