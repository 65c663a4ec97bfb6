"""tokenizer_source: compared with mergekit's merge of the exported recipe, token by token."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from objectives.engines.engine import Prompt
from objectives.engines.memory import sizes
from objectives.engines.transformers import TransformersEngine
from objectives.errors import SourceError
from objectives.export.export import MERGEKIT_FILE, export
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Files
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from study.config.genome import GenomeConfig, SpaceConfig
from study.config.load import load_config
from study.search.genome import MergeGenome
from study.setup.setup import build
from tests.support.models import MakeModel, by_mergekit, point
from tests.support.paths import DEMO

WORDS = ["<s>", "</s>", *"abcdefgh"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def with_special(folder: Path, *tokens: str) -> Path:
    """Add special tokens to the tokenizer of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, a model with more words and a special token, and one in another order."""
    root = tmp_path_factory.mktemp("vocabularies")
    longer = make_model(root / "longer", 1, words=[*WORDS, "more", "both"], rows=13)
    return {
        "base": make_model(root / "base", 0, words=WORDS),
        "longer": with_special(longer, "<pad>"),
        "other": make_model(root / "other", 2, words=["<s>", "</s>", *"hgfedcb", "own", "both"]),
    }


def recipe_of(
    folders: Mapping[str, Path], method: str = "task_arithmetic", base: str | None = "base"
) -> MergeRecipe:
    config = GenomeConfig(
        models=tuple(name for name in folders if name != base),
        base_model=base,
        merge_method=method,
        layer_granularity=2,
    )
    genome = MergeGenome(config, SpaceConfig(), 4)
    recipe = genome.recipe(point(genome, 7))
    return MergeRecipe.from_dict(recipe.to_dict() | {"dtype": "float32"})


def merged(sources: Sources, recipe: MergeRecipe) -> dict[str, Tensor]:
    return dict(MergeStream(sources).tensors(recipe))


def written(sources: Sources, recipe: MergeRecipe, tmp_path: Path) -> Path:
    references = {label: str(c.folder) for label, c in sources.checkpoints.items()}
    return export(recipe, sources, references, tmp_path / "ours", "card")


def agrees_with_mergekit(sources: Sources, recipe: MergeRecipe, tmp_path: Path) -> None:
    """Check the rows of every token, and all other tensors."""
    ours = written(sources, recipe, tmp_path)
    config = yaml.safe_load((ours / MERGEKIT_FILE).read_text())
    theirs = by_mergekit(config, tmp_path / "theirs")
    mine = load_file(ours / "model.safetensors")
    assert mine.keys() == theirs.keys()
    own_ids, merged_ids = (
        AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (ours, tmp_path / "theirs")
    )
    assert own_ids.keys() == merged_ids.keys()
    own_rows, merged_rows = [own_ids[token] for token in merged_ids], list(merged_ids.values())
    for name, tensor in mine.items():
        if name in (EMBEDDING, HEAD):
            assert torch.allclose(tensor[own_rows], theirs[name][merged_rows], atol=1e-6), name
        else:
            assert torch.allclose(tensor, theirs[name], atol=1e-6), name


@pytest.mark.parametrize("source", ["union", "model:longer", "model:other"])
@pytest.mark.parametrize("method", ["task_arithmetic", "sce"])
def test_rows_equal_mergekits_for_every_token(
    folders: dict[str, Path], source: str, method: str, tmp_path: Path
) -> None:
    sources = Sources(folders, "base", source)
    agrees_with_mergekit(sources, recipe_of(folders, method), tmp_path)


@pytest.mark.parametrize("source", ["union", "model:other"])
def test_without_a_base_rows_are_the_mean_of_those_that_have_the_token(
    folders: dict[str, Path], source: str, tmp_path: Path
) -> None:
    models = {"longer": folders["longer"], "other": folders["other"], "third": folders["base"]}
    sources = Sources(models, "longer", source, has_base=False)
    agrees_with_mergekit(sources, recipe_of(models, "linear", None), tmp_path)


def test_a_union_has_the_bases_tokens_first_and_then_the_others_in_order(
    folders: dict[str, Path],
) -> None:
    sources = Sources(folders, "base", "union")
    tokens = sources.vocabulary.tokenizer.get_vocab()
    ordered = sorted(tokens, key=tokens.__getitem__)
    assert ordered == [*WORDS, "more", "both", "<pad>", "own"]
    assert sources.vocabulary.tokenizer.added_tokens_decoder[tokens["<pad>"]].special
    again = Sources(folders, "base", "union").vocabulary.tokenizer.get_vocab()
    assert again == tokens


def test_a_token_that_nobody_has_a_row_for_is_zero(make_model: MakeModel, tmp_path: Path) -> None:
    base = with_special(make_model(tmp_path / "base", 0, words=WORDS), "<none>")
    other = make_model(tmp_path / "other", 1, words=[*WORDS, "own"])
    sources = Sources({"base": base, "other": other}, "base", "union")
    tokens = sources.vocabulary.tokenizer.get_vocab()
    assert (tokens["<none>"], tokens["own"], sources.vocabulary.size) == (10, 11, 12)
    tensor = merged(sources, MergeRecipe.single("other", 4, "float32"))[EMBEDDING]
    assert not tensor[10].any()
    assert torch.equal(tensor[11], load_file(other / "model.safetensors")[EMBEDDING][10])


@pytest.mark.parametrize("source", ["base", "union", "model:y"])
def test_32000_32001_and_32002_rows(make_model: MakeModel, tmp_path: Path, source: str) -> None:
    words = ["<s>", "</s>", *(f"w{i}" for i in range(31998))]
    folders = {
        "base": make_model(tmp_path / "base", 0, words=words, layers=4),
        "x": with_special(make_model(tmp_path / "x", 1, words=words, rows=32001), "<pad>"),
        "y": with_special(
            make_model(tmp_path / "y", 2, words=words, rows=32002), "<|im_end|>", "<|im_start|>"
        ),
    }
    sources = Sources(folders, "base", source)
    rows = {"base": 32000, "union": 32003, "model:y": 32002}[source]
    merge = merged(sources, recipe_of(folders, "dare_ties"))
    assert merge[EMBEDDING].shape == merge[HEAD].shape == (rows, 16)
    assert sources.merged_config("float32")["vocab_size"] == rows
    if source == "union":
        agrees_with_mergekit(sources, recipe_of(folders), tmp_path)


def test_tied_heads_have_the_merges_rows_once(make_model: MakeModel, tmp_path: Path) -> None:
    folders = {
        "base": make_model(tmp_path / "base", 0, words=WORDS, tied=True),
        "x": make_model(tmp_path / "x", 1, words=[*WORDS, "more"], tied=True),
    }
    sources = Sources(folders, "base", "union")
    assert HEAD not in merged(sources, recipe_of(folders, "sce"))
    agrees_with_mergekit(sources, recipe_of(folders, "sce"), tmp_path)
    mixed = {**folders, "free": make_model(tmp_path / "free", 2, words=[*WORDS, "own"])}
    apart = Sources(mixed, "base", "union")
    merge = merged(apart, MergeRecipe.single("x", 4, "float32"))
    assert torch.equal(merge[HEAD][:11], merge[EMBEDDING][:11])
    assert not torch.equal(merge[HEAD][11], merge[EMBEDDING][11])  # own, from where they differ
    assert apart.merged_config("float32")["tie_word_embeddings"] is False


def test_padding_is_dropped_as_in_mergekit(make_model: MakeModel, tmp_path: Path) -> None:
    folders = {
        "base": make_model(tmp_path / "base", 0, words=WORDS, rows=16),
        "x": make_model(tmp_path / "x", 1, words=[*WORDS, "more"], rows=12),
    }
    union = Sources(folders, "base", "union")
    assert union.vocabulary.size == 11
    agrees_with_mergekit(union, recipe_of(folders, "sce"), tmp_path)
    assert Sources(folders, "base").vocabulary.size == 16
    assert Sources(folders, "base", "model:base").vocabulary.size == 16


def test_half_precision_is_widened_only_if_rows_are_averaged(
    make_model: MakeModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    half = {
        name: make_model(tmp_path / name, seed, words=[*WORDS, *extra], dtype=torch.bfloat16)
        for seed, (name, extra) in enumerate((("a", ["p"]), ("b", ["p", "q"]), ("c", [])))
    }
    sources = Sources(half, "c", "union", has_base=False)
    [info] = [i for i in sources.layout if i.name == EMBEDDING]
    kinds = {label: sources.dtype(label, info) for label in half}
    assert kinds == {"a": torch.bfloat16, "b": torch.bfloat16, "c": torch.float32}
    for label in half:
        assert sources.read(label, info).dtype == kinds[label]
    stored = [load_file(half[n] / "model.safetensors")[EMBEDDING][10].float() for n in ("a", "b")]
    assert torch.equal(sources.read("c", info)[10], (stored[0] + stored[1]) / 2)


@pytest.mark.parametrize("source", ["union", "model:longer"])
def test_engine_export_and_memory_estimate_use_the_merges_vocabulary(
    folders: dict[str, Path], source: str, tmp_path: Path
) -> None:
    sources, recipe = Sources(folders, "base", source), recipe_of(folders)
    engine = TransformersEngine(sources)
    engine.load(recipe)
    size = sources.vocabulary.size
    prompt = Prompt((0, size - 1, 3), 1, 4, tuple(range(size)))
    [answer] = engine.answer([prompt])
    folder = written(sources, recipe, tmp_path)
    assert AutoConfig.from_pretrained(folder).vocab_size == size
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = model(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(dim=-1)
    assert answer.logprobs == pytest.approx(logits.tolist(), abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.get_vocab() == sources.vocabulary.tokenizer.get_vocab()
    assert tokenizer("a more <pad>")["input_ids"] == [
        2,
        *(tokenizer.get_vocab()[t] for t in ("more", "<pad>")),
    ]
    taken = sizes(sources, "float32", 64, 8, 1000)
    stored = sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    assert taken.model == taken.sources["base"] == stored


def test_special_tokens_are_those_of_the_merges_vocabulary(
    make_model: MakeModel, tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", 0, words=WORDS)
    turned = make_model(tmp_path / "turned", 1, words=["</s>", "<s>", *WORDS[2:]])
    config = (turned / "config.json").read_text()
    (turned / "config.json").write_text(
        config.replace('"bos_token_id": 0', '"bos_token_id": 1').replace(
            '"eos_token_id": 1', '"eos_token_id": 0'
        )
    )
    folders = {"base": base, "turned": turned}
    for source, ends in (("base", 1), ("union", 1), ("model:turned", 0)):
        assert Sources(folders, "base", source).merged_config("float32")["eos_token_id"] == ends


def test_prompts_are_in_the_merges_tokens(tmp_path: Path) -> None:
    """The demo with a model that has the base's tokens in another order."""
    models = DEMO / "models"
    turned = Path(shutil.copytree(models / "numeric", tmp_path / "turned"))
    tokenizer = json.loads((turned / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = vocabulary["1"], vocabulary["2"]
    vocabulary["1"], vocabulary["2"] = second, first
    (turned / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = load_config(DEMO / "study.yaml")
    changed = {"models": (str(turned), str(models / "relations"))}
    setups = []
    for source in ("base", str(turned)):
        genome = config.genome.model_copy(update=changed | {"tokenizer_source": source})
        setups.append(build(config.model_copy(update={"genome": genome}), check_values=False))
    facts = [setup.fingerprint(4) for setup in setups]
    assert [fact["tokenizer_source"] for fact in facts] == ["base", "model:turned"]
    ours, theirs = (
        [p.tokens for prompts in setup.search.prompts.values() for p in prompts] for setup in setups
    )
    swapped = {first: second, second: first}
    assert [tuple(swapped.get(token, token) for token in tokens) for tokens in ours] == theirs
    assert ours != theirs


def test_kernels_use_the_merges_rows(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from objectives.merge import fused

    assert isinstance(fused, ModuleType)
    sources = Sources(folders, "base", "union")
    kernels = fused.Fused(Files(sources), sources.layout)
    recipe = recipe_of(folders, "ties")
    ours, theirs = dict(kernels.tensors(recipe)), merged(sources, recipe)
    assert ours[EMBEDDING].shape == (14, 16)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_vocabulary_without_tokenizer_files_is_refused(
    folders: dict[str, Path], make_model: MakeModel, tmp_path: Path
) -> None:
    bare = make_model(tmp_path / "bare", 3, words=WORDS)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        SourceError, match="bare: tokenizer_source: model:bare needs tokenizer files"
    ):
        Sources({"base": folders["base"], "bare": bare}, "base", "model:bare")
    with pytest.raises(SourceError, match="bare: tokenizer_source: union needs tokenizer files"):
        Sources({"bare": bare, "base": folders["base"]}, "bare", "union")
    union = Sources({"base": folders["base"], "bare": bare}, "base", "union")
    assert union.vocabulary.rows["bare"] is None
