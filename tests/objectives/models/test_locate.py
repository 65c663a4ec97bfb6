"""Locating models: the hub's cache, offline use, and adapters that are merged once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from objectives.errors import SourceError
from objectives.merge.recipe import MergeRecipe, labels
from objectives.merge.stream import MergeStream
from objectives.models.locate import absolute_reference, check_exists, locate
from objectives.models.sources import Sources
from tests.support.models import WORDS, MakeModel
from tests.support.paths import ROOT

NAME = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def base(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("adapters") / "base", 0, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with non-zero weights, saved by peft."""
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "lora", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "merge-study" / "adapters"


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def by_peft(base: Path, adapter: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return dict(merged.state_dict())


def test_a_model_with_an_adapter_equals_pefts_merge(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = locate(f"{base}+{adapter}", tmp_path)
    expected = by_peft(base, adapter)
    sources = Sources({"base": base, "lora": folder}, "base")
    merged = dict(MergeStream(sources).tensors(MergeRecipe.single("lora", 4)))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert not torch.equal(merged[NAME], load_file(base / "model.safetensors")[NAME])
    assert not sources.vocabularies_differ


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, 2),
        ({"modules_to_save": ["embed_tokens"]}, 2),
        ({"trainable_token_indices": [3, len(WORDS), len(WORDS) + 1]}, 2),
        ({"trainable_token_indices": [3, 5]}, 0),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, 0),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, 2),
        ({}, 2),
    ],
)
def test_an_adapter_with_new_rows_computes_like_the_trained_model(
    make_model: MakeModel, tmp_path: Path, options: dict[str, Any], rows: int, tied: bool
) -> None:
    base = make_model(tmp_path / "base", 0, layers=1, tied=tied)
    trained = with_rows(base, tmp_path / "lora", rows, options)
    folder = locate(f"{base}+{tmp_path / 'lora'}", tmp_path)
    ids = torch.tensor([[0, 3, 5, len(WORDS) + rows - 1, 7]])
    expected = trained(ids).logits
    actual = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert actual.shape == expected.shape
    assert torch.allclose(actual, expected, atol=1e-5)
    names = {f"<new{i}>" for i in range(rows)}
    assert names <= AutoTokenizer.from_pretrained(folder).get_vocab().keys()
    merge = Sources({"base": base, "lora": folder}, "base", "union")
    assert merge.vocabulary.size == len(WORDS) + rows


def with_rows(base: Path, folder: Path, rows: int, options: dict[str, Any]) -> Any:
    """Train a model with additional tokens, and save it as an adapter with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if rows:
        tokenizer.add_tokens([f"<new{i}>" for i in range(rows)])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"]} | options)
    adapted = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


def test_an_adapter_without_all_rows_of_its_tokens_is_refused(
    make_model: MakeModel, tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", 0, layers=1)
    with_rows(base, tmp_path / "lora", 2, {"trainable_token_indices": [len(WORDS) + 1]})
    path = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "lm_head" not in n}, path)
    with pytest.raises(SourceError, match=r"no lm_head of 40 rows; .*save_embedding_layers=True"):
        locate(f"{base}+{tmp_path / 'lora'}", tmp_path)


def test_a_generation_config_that_transformers_does_not_save_is_copied(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    text = '{"do_sample": false, "temperature": 0.9, "eos_token_id": [1, 5]}'
    (other / "generation_config.json").write_text(text)
    folder = locate(f"{other}+{adapter}", tmp_path)
    assert (folder / "generation_config.json").read_text() == text


def test_an_adapter_is_merged_once_and_again_after_a_change(
    base: Path, adapter: Path, tmp_path: Path, cache: Path
) -> None:
    first = locate(f"{base}+{adapter}", tmp_path)
    modified = first.stat().st_mtime_ns
    assert locate(f"{base}+{adapter}", tmp_path) == first
    assert first.stat().st_mtime_ns == modified
    other = Path(shutil.copytree(adapter, tmp_path / "lora"))
    assert locate(f"{base}+{other}", tmp_path) == first  # the same contents
    tensors = load_file(other / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, other / "adapter_model.safetensors")
    assert locate(f"{base}+{other}", tmp_path) != first
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 2


CHILD = """
import logging, sys, time
from pathlib import Path
from objectives.files import atomic_files
from objectives.models.locate import locate
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
if sys.argv[2] == "slow":
    atomic_files.sync = lambda path: time.sleep(60)
print(locate(sys.argv[1], Path()))
"""


def child(reference: str, how: str = "whole") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, reference, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_kill_leaves_no_unfinished_folder_and_two_workers_merge_once(
    base: Path, adapter: Path, cache: Path
) -> None:
    reference = f"{base}+{adapter}"
    killed = child(reference, "slow")
    while not any(cache.glob(".*.part/model.safetensors")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [p for p in cache.iterdir() if not p.name.startswith(".")] == []
    outputs = [process.communicate()[0] for process in [child(reference) for _ in range(2)]]
    assert sum("merging the adapter" in text for text in outputs) == 1
    [folder] = [p for p in cache.iterdir() if not p.name.startswith(".")]
    assert all(text.strip().endswith(str(folder)) for text in outputs)
    assert not any(cache.glob(".*.part"))
    expected = by_peft(base, adapter)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in stored.items())


def edit(adapter: Path, **settings: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "has no peft_type"),
        (lambda f: edit(f, peft_type="SHADOW", shadow_model="evil"), "peft_type 'SHADOW' cannot"),
        (lambda f: edit(f, peft_type="XLORA", adapters={"a": "evil"}), "peft_type 'XLORA' cannot"),
        (lambda f: edit(f, corda_config={"cache_file": "x"}), "corda_config refers to other files"),
        (lambda f: edit(f, bias=[{"x": "/etc/passwd"}]), "bias names the path '/etc/passwd'"),
        (lambda f: (f / "chat_template.jinja").symlink_to("/etc/hostname"), "chat_template.jinja"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "does not fit"),
        (
            lambda f: save_file(
                {n: t for n, t in load_file(f / "adapter_model.safetensors").items() if "s.3" in n},
                f / "adapter_model.safetensors",
            ),
            "tensors are only in the adapter or only in",
        ),
    ],
)
def test_a_folder_that_is_not_an_adapter_is_refused(
    base: Path, adapter: Path, tmp_path: Path, cache: Path, change: object, message: str
) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "broken"))
    change(copy)  # type: ignore[operator]
    with pytest.raises(SourceError, match=message):
        locate(f"{base}+{copy}", tmp_path)
    assert not cache.exists() or all(p.name.endswith(".lock") for p in cache.iterdir())


def test_an_adapter_for_another_shape_is_refused(
    make_model: MakeModel, adapter: Path, tmp_path: Path
) -> None:
    wider = make_model(tmp_path / "wider", 0, hidden=32)
    with pytest.raises(SourceError, match="the adapter does not fit"):
        locate(f"{wider}+{adapter}", tmp_path)


def test_an_unwritable_cache_is_reported(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SourceError, match="set XDG_CACHE_HOME to another folder"):
        locate(f"{base}+{adapter}", tmp_path)


def test_references_are_split_into_model_and_adapter(base: Path, tmp_path: Path) -> None:
    plus = Path(shutil.copytree(base, tmp_path / "a+b"))
    assert locate("a+b", tmp_path) == plus
    assert absolute_reference("a+b", tmp_path) == str(plus)
    assert absolute_reference(f"{base}+org/lora@v1", tmp_path) == f"{base}+org/lora@v1"
    assert labels(["org/base", "org/base@v1+org/lora", "./x+y/lora-2/"]) == (
        "base",
        "lora",
        "lora-2",
    )
    for text in ("a+b+c", "a+", "+b"):
        with pytest.raises(SourceError, match=r"must be a model, or model\+adapter"):
            locate(text, tmp_path)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("none", "it is not a hub id"),
        ("./none", "it is not a hub id"),
        ("../none", "it is not a hub id"),
        ("/none/none", "it is not a hub id"),
        ("~/none-of-this-name", "it is not a hub id"),
        ("a/b/none", "it is not a hub id"),
        ("models/none", "it is not read as a hub id, because .* write models/none@main"),
        ("models/file", "it is not a hub id"),
        ("org/name+models/none", "it is not read as a hub id, because"),
    ],
)
def test_a_path_without_a_folder_is_refused_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "file").touch()
    name = reference.rpartition("+")[2]
    with pytest.raises(SourceError, match=rf"^{re.escape(name)}: there is no folder .*{reason}"):
        check_exists(reference, tmp_path)
    with pytest.raises(SourceError, match=rf"^{re.escape(name)}: there is no folder .*{reason}"):
        locate(name, tmp_path)


def test_a_hub_id_and_a_folder_are_not_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for reference in ("org/name", "org/name@v1", "models/none@main", f"{base}+org/lora", str(base)):
        check_exists(reference, tmp_path)


def test_adapters_pickles_and_gguf_files_are_refused_with_the_remedy(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=r"no config\.json; it is an adapter: write model\+adap"):
        Sources({"m": adapter}, "m")
    for name, message in (
        ("adapter_config.json", r"it is an adapter: write model\+adapter"),
        ("pytorch_model.bin", "convert them with transformers"),
        ("model.gguf", "use the original model"),
    ):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        shutil.copyfile(base / "config.json", folder / "config.json")
        (folder / name).write_bytes(b"")
        with pytest.raises(SourceError, match=message):
            Sources({"m": folder}, "m")


def hub(home: Path, base: Path, **refs: str) -> Path:
    """Create a cache in the layout of huggingface_hub, with commits by ref."""
    root = home / "hub" / "models--org--name"
    for ref, commit in refs.items():
        snapshot = root / "snapshots" / commit
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        if not snapshot.exists():
            shutil.copytree(base, snapshot)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return root


def offline(home: Path, *references: str) -> list[str]:
    """Return the folder or the error of each reference in an offline process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from objectives.models.locate import locate\n"
        "from objectives.errors import SourceError\n"
        "for reference in sys.argv[1:]:\n"
        "    try: print(locate(reference, Path()))\n"
        "    except SourceError as error: print('error:', error)"
    )
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *references],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=home,
    )
    return result.stdout.strip().split("\n")


def test_the_hubs_cache_serves_revisions_offline(
    base: Path, adapter: Path, tmp_path: Path, cache: Path
) -> None:
    snapshots = hub(tmp_path, base, main="a" * 40, v1="b" * 40) / "snapshots"
    *folders, adapted, unknown, absent = offline(
        tmp_path,
        "org/name",
        "org/name@v1",
        f"org/name@{'b' * 40}",
        f"org/name@v1+{adapter}",
        "org/name@v2",
        "org/absent",
    )
    assert folders == [str(snapshots / (letter * 40)) for letter in "abb"]
    assert Path(adapted).parent == cache
    assert "bbbb+lora-" in adapted
    assert unknown.startswith("error: org/name@v2: there is no folder")
    assert absent.startswith("error: org/absent: there is no folder")
