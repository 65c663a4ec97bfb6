"""Models and questions of real size, made on the spot: four Mistral-7B shapes, 2,250 questions."""

import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

NAMES = ("base", "x", "y", "z")
ROWS = 32_000
CHOICE, CHOICE_SHARED, CHOICE_OWN = 2000, 400, (60, 200)
RETRIEVAL, RETRIEVAL_SHARED, RETRIEVAL_OWN = 250, 800, (200, 500)
SHARD = 2_000_000_000


def config_of(layers: int) -> MistralConfig:
    """Mistral-7B's shapes."""
    return MistralConfig(
        vocab_size=ROWS,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        sliding_window=None,
        rope_theta=10000.0,
        bos_token_id=0,
        eos_token_id=1,
    )


def make_model(folder: Path, seed: int, layers: int) -> None:
    """The base's weights from seed 0; a finetune's are those and a small change of its own."""
    config = config_of(layers)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in MistralForCausalLM(config).named_parameters()}
    config.architectures = ["MistralForCausalLM"]
    config.save_pretrained(folder)
    save_tokenizer(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    common = torch.Generator(device).manual_seed(0)
    own = torch.Generator(device).manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes.items():
        spread = 0.02 if len(shape) > 1 else 0.1
        tensor = torch.randn(shape, generator=common, device=device) * spread
        tensor += len(shape) == 1
        if seed:
            tensor += 0.1 * spread * torch.randn(shape, generator=own, device=device)
        if sum(t.nbytes for t in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = tensor.bfloat16().cpu()
    where = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_tokenizer(folder: Path) -> None:
    """One token a word, so that lengths are what they are said to be."""
    words = [
        "<s>",
        "</s>",
        "<unk>",
        "answer",
        *(f"{i}{c}" for i in range(20) for c in ("", ".", ",")),
    ]
    words += [f"w{i}" for i in range(ROWS - len(words))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    made.save_pretrained(folder)


def make_questions(folder: Path, times: int = 1) -> None:
    """CHOICE and RETRIEVAL questions, so many times."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(ROWS - 100)}" for _ in range(count))

    def question(own: tuple[int, int], options: range) -> str:
        room = rng.randint(*own) - 1 - len(options)  # the cue, and the options' numbers
        each = room // (len(options) + 1)
        lines = [f"{i}. {words(each)}" for i in options]
        return "\n".join([words(room - each * len(options)), *lines])

    for name, count, shared, own, options in (
        ("choice", CHOICE, CHOICE_SHARED, CHOICE_OWN, range(4)),
        ("retrieval", RETRIEVAL, RETRIEVAL_SHARED, RETRIEVAL_OWN, range(1, 11)),
    ):
        template = {"preamble": words(shared) + "\n", "turn": "{{ question }}\nanswer\n"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(template))
        with (folder / f"{name}.jsonl").open("w") as file:
            for _ in range(times * count):
                labels = rng.sample(list(options), 3)
                label: Any = labels[0] if name == "choice" else labels
                row = {"input_field": question(own, options), "output_field": label}
                file.write(json.dumps(row) + "\n")


def make(folder: Path, layers: int, times: int = 1) -> None:
    if (folder / "choice.jsonl").exists():
        return
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    crew = [
        context.Process(target=make_model, args=(folder / name, seed, layers))
        for seed, name in enumerate(NAMES)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
        assert process.exitcode == 0
    make_questions(folder, times)
    print(f"models and questions made in {time.monotonic() - began:.0f} s", flush=True)
