from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from objectives.errors import SourceError
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stream import MergeStream
from objectives.models.fingerprint import fingerprints
from objectives.models.sources import Sources

WORDS = ["<s>", "</s>", *"abcdefgh"]


def merged(sources: Sources, recipe: MergeRecipe) -> dict[str, torch.Tensor]:
    return dict(MergeStream(sources).tensors(recipe))


def test_merging_a_single_model_copies_it_bit_for_bit(family: dict[str, Path]) -> None:
    sources = Sources(family, "base")
    for label, folder in family.items():
        stored = load_file(folder / "model.safetensors")
        ours = merged(sources, MergeRecipe.single(label, 4, "float32"))
        assert ours.keys() == stored.keys()
        assert all(torch.equal(ours[name], stored[name]) for name in stored)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_and_half_precision_are_read_alike(
    make_model: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    one = make_model(tmp_path / "one", 1, dtype=dtype)
    many = make_model(tmp_path / "many", 1, dtype=dtype, shard="6KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    sources = Sources({"one": one, "many": many}, "one")
    recipe = MergeRecipe.single("one", 4, str(dtype).removeprefix("torch."))
    a = merged(sources, recipe)
    b = merged(sources, MergeRecipe.single("many", 4, recipe.dtype))
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == dtype for name in a)


def _broken(family: dict[str, Path], tmp_path: Path, change: Callable[[Any], None]) -> Path:
    """Copy the model x and change tensors."""
    import shutil

    folder = Path(shutil.copytree(family["x"], tmp_path / "x"))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NAME = "model.layers.2.mlp.up_proj.weight"


def test_different_shapes_are_reported(family: dict[str, Path], tmp_path: Path) -> None:
    folder = _broken(family, tmp_path, lambda t: t.update({NAME: torch.zeros(24, 15)}))
    with pytest.raises(
        SourceError, match=rf"x and base .* {NAME} has the shapes \[24, 15\] and \[24, 16\]"
    ):
        Sources({"base": family["base"], "x": folder}, "base")


def test_a_missing_tensor_is_reported(family: dict[str, Path], tmp_path: Path) -> None:
    folder = _broken(family, tmp_path, lambda t: t.pop(NAME))
    with pytest.raises(SourceError, match=f"x: tensor {NAME} is missing"):
        Sources({"base": family["base"], "x": folder}, "base")


def test_an_unknown_dtype_is_reported(family: dict[str, Path], tmp_path: Path) -> None:
    folder = _broken(family, tmp_path, lambda t: t.update({NAME: t[NAME].to(torch.int8)}))
    with pytest.raises(SourceError, match=f"x: tensor {NAME} has the dtype I8"):
        Sources({"base": family["base"], "x": folder}, "base")


def test_non_finite_values_are_reported(family: dict[str, Path], tmp_path: Path) -> None:
    def spoil(tensors: Any) -> None:
        tensors[NAME][3, 3] = float("nan")

    sources = Sources({"base": family["base"], "x": _broken(family, tmp_path, spoil)}, "base")
    with pytest.raises(SourceError, match=f"x: tensor {NAME} contains NaN or infinity"):
        sources.check_values()


def test_different_architectures_are_refused(
    family: dict[str, Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    deeper = make_model(tmp_path / "deeper", 1, layers=5)
    with pytest.raises(SourceError, match="num_hidden_layers 5 and 4"):
        Sources({"base": family["base"], "deeper": deeper}, "base")


def test_a_fingerprint_changes_with_one_weight(family: dict[str, Path], tmp_path: Path) -> None:
    def nudge(tensors: Any) -> None:
        tensors[NAME][0, 0] += 1e-3

    before = fingerprints(Sources(family, "base"))
    changed = {**family, "x": _broken(family, tmp_path, nudge)}
    after = fingerprints(Sources(changed, "base"))
    assert {label for label in before if before[label] != after[label]} == {"x"}


def test_longer_and_shuffled_vocabularies_are_aligned(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", 0, words=WORDS)
    longer = make_model(tmp_path / "longer", 1, words=[*WORDS, "<pad>", "<more>"])
    other = make_model(tmp_path / "other", 2, words=["<s>", "</s>", *"hgfedcb", "new"])
    sources = Sources({"base": base, "longer": longer, "other": other}, "base")
    assert sources.vocabularies_differ
    name = "model.embed_tokens.weight"
    rows = {
        label: load_file(folder / "model.safetensors")[name]
        for label, folder in (("base", base), ("longer", longer), ("other", other))
    }
    ours = merged(sources, MergeRecipe.single("longer", 4, "float32"))
    assert torch.equal(ours[name], rows["longer"][: len(WORDS)])
    ours = merged(sources, MergeRecipe.single("other", 4, "float32"))
    assert ours[name].shape == (len(WORDS), 16)
    assert torch.equal(ours[name][WORDS.index("h")], rows["other"][2])
    assert torch.equal(ours[name][WORDS.index("a")], rows["base"][WORDS.index("a")])
    assert torch.equal(
        ours["lm_head.weight"][WORDS.index("b")],
        load_file(other / "model.safetensors")["lm_head.weight"][8],
    )


def test_a_padded_vocabulary_keeps_its_rows(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", 0, words=WORDS, rows=16)
    model = make_model(tmp_path / "model", 1, words=WORDS, rows=12)
    sources = Sources({"base": base, "model": model}, "base")
    name = "model.embed_tokens.weight"
    ours = merged(sources, MergeRecipe.single("model", 4, "float32"))[name]
    assert torch.equal(ours[:12], load_file(model / "model.safetensors")[name])
    assert torch.equal(ours[12:], load_file(base / "model.safetensors")[name][12:])


def test_tied_heads_stay_tied_unless_a_model_has_its_own_head(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    tied = {n: make_model(tmp_path / n, i, tied=True) for i, n in enumerate(("a", "b"))}
    sources = Sources(tied, "a")
    assert "lm_head.weight" not in merged(sources, MergeRecipe.single("b", 4))
    assert sources.merged_config("bfloat16")["tie_word_embeddings"] is True
    free = make_model(tmp_path / "free", 2)
    mixed = Sources({**tied, "free": free}, "a")
    assert mixed.merged_config("bfloat16")["tie_word_embeddings"] is False
    alone = merged(mixed, MergeRecipe.single("a", 4, "float32"))
    assert torch.equal(alone["lm_head.weight"], alone["model.embed_tokens.weight"])
