"""Only complete regular files in a model's folder are read, as transformers selects them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from objectives.errors import SourceError
from objectives.export.export import export
from objectives.merge.recipe import MergeRecipe
from objectives.models.locate import absolute_reference, locate
from objectives.models.sources import Sources
from study.config.errors import ConfigError
from study.config.study import StudyConfig
from study.setup.models import open_models

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def model(family: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the model x that a test may change."""
    return Path(shutil.copytree(family["x"], tmp_path / "model"))


def write_index(folder: Path, **files: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


def ours(folder: Path) -> torch.Tensor:
    return Sources({"m": folder}, "m").checkpoints["m"].read(NAME)


def theirs(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tensor: torch.Tensor = model.state_dict()[NAME]
    return tensor


@pytest.mark.parametrize("other", ["a.safetensors", "model_old.safetensors", "z.safetensors"])
def test_model_safetensors_takes_precedence_over_other_files(
    family: dict[str, Path], model: Path, other: str
) -> None:
    shutil.copy(family["y"] / SINGLE, model / other)
    assert torch.equal(ours(model), theirs(model))
    write_index(model, **dict.fromkeys(load_file(model / other), other))  # stale
    (model / "pytorch_model.bin").write_bytes(b"")
    assert torch.equal(ours(model), theirs(model))
    assert torch.equal(ours(model), load_file(family["x"] / SINGLE)[NAME])


def test_an_index_determines_the_files_that_are_read(family: dict[str, Path], model: Path) -> None:
    tensors = load_file(model / SINGLE)
    (model / SINGLE).unlink()
    files = {}
    for i, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        files |= dict.fromkeys(part, f"part-{i}.safetensors")
        save_file({name: tensors[name] for name in part}, model / f"part-{i}.safetensors")
    shutil.copy(family["y"] / SINGLE, model / "consolidated.safetensors")
    with pytest.raises(SourceError, match=r"is in both consolidated.safetensors and part-"):
        ours(model)
    write_index(model, **files)
    assert torch.equal(ours(model), tensors[NAME])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../y/model.safetensors", "outside of the model's folder"),
        ("/etc/passwd", "outside of the model's folder"),
        ("a\0b.safetensors", "outside of the model's folder"),
        ("none.safetensors", "which does not exist"),
        ("x" * 5000, "which does not exist"),
        ("", "is not a regular file"),
        (3, "has no weight_map"),
    ],
)
def test_an_index_with_files_outside_of_the_folder_is_refused(
    family: dict[str, Path], model: Path, file: Any, message: str
) -> None:
    shutil.copytree(family["y"], model.parent / "y")
    (model / SINGLE).unlink()
    write_index(model, **{NAME: file})
    with pytest.raises(SourceError, match=message):
        ours(model)


LINKED = ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", SINGLE)


@pytest.mark.parametrize("name", LINKED)
def test_a_link_out_of_a_folder_is_refused(model: Path, name: str) -> None:
    private = model.parent / "private"
    private.write_bytes((model / name).read_bytes() if (model / name).exists() else b"hidden")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(private)
    with pytest.raises(SourceError, match=r"is a link out of the model's folder, to .*private"):
        ours(model)
    (model / name).unlink()
    (model / name).symlink_to(model / "nowhere")
    with pytest.raises(SourceError, match="is a broken link"):
        ours(model)


@pytest.mark.parametrize("name", LINKED)
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(SourceError, match="is not a regular file"):
        ours(model)


@pytest.mark.parametrize("name", LINKED)
def test_a_git_lfs_pointer_is_reported(model: Path, name: str) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(SourceError, match=r"is a Git LFS pointer.* git lfs pull"):
        ours(model)


def cached(home: Path, model: Path, *commits: str) -> Path:
    """Create the folder of a repository in a cache, whose snapshots are links to blobs."""
    root = home / "models--org--name"
    (root / "blobs").mkdir(parents=True)
    for path in model.iterdir():
        shutil.copy(path, root / "blobs" / f"blob-{path.name}")
    for commit in commits:
        (root / "snapshots" / commit).mkdir(parents=True)
        for path in model.iterdir():
            (root / "snapshots" / commit / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    return root


def test_a_folder_of_the_hubs_cache_resolves_to_its_snapshot(model: Path, tmp_path: Path) -> None:
    root = cached(tmp_path / "hub", model, "aaaa", "bbbb")
    with pytest.raises(SourceError, match=r"several snapshots or none \(aaaa, bbbb\); choose one"):
        locate(str(root), tmp_path)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("bbbb\n")
    assert locate(str(root), tmp_path) == root / "snapshots" / "bbbb"
    assert absolute_reference(str(root), tmp_path) == str(root / "snapshots" / "bbbb")
    assert torch.equal(ours(locate(str(root), tmp_path)), load_file(model / SINGLE)[NAME])
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (root / "snapshots" / "bbbb" / "added_tokens.json").symlink_to(secret)
    with pytest.raises(SourceError, match="is a link out of the model's folder"):
        ours(root / "snapshots" / "bbbb")


def study(folder: Path, *models: str, base: str = "base", **genome: Any) -> StudyConfig:
    data = {"models": models, "base_model": base, "merge_method": "task_arithmetic"} | genome
    tasks = [{"name": "mc", "kind": "multiple_choice", "data": "none"}]
    config = StudyConfig.model_validate({"genome": data, "tasks": tasks})
    return config.with_file(folder / "study.yaml")


@pytest.mark.parametrize("other", ["./a", "a/", "../here/a", "link", "absolute"])
def test_the_same_folder_listed_twice_is_refused(
    family: dict[str, Path], tmp_path: Path, other: str
) -> None:
    here = tmp_path / "here"
    for name, source in (("base", "base"), ("a", "x"), ("b", "y")):
        shutil.copytree(family[source], here / name)
    (here / "link").symlink_to(here / "a")
    other = str(here / "a") if other == "absolute" else other
    with pytest.raises(ConfigError, match=r"a and .* are the same folder.*list it once"):
        open_models(study(here, "a", "b", other))
    with pytest.raises(ConfigError, match=r"are the same folder.*same spelling as base_model"):
        open_models(study(here, "a", "b", "./base"))


def test_a_base_among_the_models_is_logged(
    family: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, source in (("base", "base"), ("a", "x")):
        shutil.copytree(family[source], tmp_path / name)
    open_models(study(tmp_path, "a", "base"))
    assert "base_model base is also one of the models: it has no effect" in caplog.text
    caplog.clear()
    open_models(study(tmp_path, "a", "base", merge_method="linear"))
    assert "moves nothing" not in caplog.text


def test_an_exported_config_refers_to_no_code_and_no_quantization(
    model: Path, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "a.B"}, "quantization_config": {"quant_method": "awq"}}
    (model / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(
        json.dumps(tokenizer | {"auto_map": ["a.B", None]})
    )
    sources = Sources({"m": model}, "m")
    out = export(MergeRecipe.single("m", 4), sources, {"m": "m"}, tmp_path / "out", "card")
    for name in ("config.json", "tokenizer_config.json"):
        assert not {"auto_map", "quantization_config"} & json.loads((out / name).read_text()).keys()


def test_a_tokenizer_that_needs_code_is_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["a.B", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(SourceError, match="'MyTokenizer', needs code that comes with the model"):
        ours(model)
