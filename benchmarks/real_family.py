"""Make a family of real models: a small language model from a GGUF file, and three finetunes.

    python -m benchmarks.real_family GGUF QUESTIONS OUT [--steps 250] [--device cuda]
        [--only NAME ...]

QUESTIONS is a folder with EC-Guide's question files (SA, SAP, MDM, SPA, PKS and RRA.json). Each
finetune learns one domain from half of its questions; the other halves are the questions of
OUT/study.yaml. Which half a question is in depends on its text alone, so families of several bases
have the same questions. OUT is made with `--only base` first; finetunes that exist are left alone.
"""

import argparse
import hashlib
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

DOMAINS = {
    "sentiment": ("SA",),
    "selling": ("SAP", "MDM", "SPA", "PKS"),
    "aspects": ("RRA",),
}
"""The question files that each finetune learns from."""
RETRIEVAL = ("RRA",)
LEARNED = 128
"""Of 256 parts of the questions, by the hash of their text, those that are learned from."""
ASKED_OF_SENTIMENT = 191
"""Where the parts end that a study asks of SA, which has far more questions than the others."""
LONGEST = 700
WARM_UP, RATE, BATCH = 20, 5e-5, 32


@dataclass(frozen=True)
class Row:
    """A question of a file, as it stands there."""

    question: str
    answer: int | str | list[int]
    retrieval: bool

    @property
    def part(self) -> int:
        return hashlib.sha256(self.question.encode()).digest()[0]

    @property
    def text(self) -> tuple[str, str]:
        """The prompt, as the built-in prompt `plain` writes it, and the answer."""
        body, _, cue = self.question.rstrip().rpartition("\n")
        cue = cue.strip()
        if not (cue.endswith(":") and len(cue) < 12):
            body, cue = self.question.rstrip(), "Answer:"
        labels = self.answer if isinstance(self.answer, list) else [self.answer]
        return f"{body.strip()}\n{cue.rstrip(':').strip()}:", ",".join(map(str, labels))


def rows(folder: Path, name: str) -> Iterator[Row]:
    """The usable questions of a file, each once."""
    seen = set()
    for item in json.loads((folder / f"{name}.json").read_text()):
        question, answer = item["input_field"], item["output_field"]
        if name in RETRIEVAL:
            usable = isinstance(answer, list) and len(answer) == len(set(answer)) == 3
        else:
            usable = str(answer).strip().isdigit()
        if usable and question not in seen:
            seen.add(question)
            yield Row(question, answer, name in RETRIEVAL)


def write_study(questions: Path, out: Path, layers: int) -> None:
    """Write the questions that no finetune learns from, and a study of them."""
    asked: dict[str, list[Row]] = {"choice": [], "retrieval": []}
    for name in (name for names in DOMAINS.values() for name in names):
        last = ASKED_OF_SENTIMENT if name == "SA" else 256
        chosen = [row for row in rows(questions, name) if LEARNED <= row.part < last]
        asked["retrieval" if name in RETRIEVAL else "choice"] += chosen
    for name, chosen in asked.items():
        lines = [{"input_field": r.question, "output_field": r.answer} for r in chosen]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {"prompt": "plain", "on_bad": "skip"}
    choice = {"name": "choice", "weight": 0.875, "kind": "multiple_choice", "data": "choice.jsonl"}
    retrieval = {"name": "retrieval", "weight": 0.125, "kind": "retrieval"}
    retrieval |= {"data": "retrieval.jsonl", "max_tokens": 9}
    study = {
        "genome": {
            "models": list(DOMAINS),
            "base_model": "base",
            "merge_method": "dare_ties",
            "layer_granularity": -(-layers // 6),
            "normalize": False,
        },
        "tasks": [choice | common, retrieval | common],
        "study": {"name": out.name, "trials": 350, "held_out": 0.5},
    }
    (out / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def make_base(file: Path, out: Path) -> int:
    """Write the model of a GGUF file in bfloat16; return its number of layers."""
    where: dict[str, Any] = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    model.hf_quantizer = None  # what the file held is dequantized
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(out / "base")
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(out / "base")
    return int(model.config.num_hidden_layers)


def finetune(out: Path, name: str, learned: Sequence[Row], steps: int, device: str) -> str:
    """Train one finetune, and return what its loss did."""
    torch.manual_seed(0)
    draw, began = random.Random(0), time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    encoded = []
    for row in learned:
        prompt, answer = (tokenizer.encode(text) for text in row.text)
        if answer[0] == tokenizer.bos_token_id:
            answer = answer[1:]
        encoded.append((prompt, [*answer, tokenizer.eos_token_id]))
    encoded = [(p, a) for p, a in encoded if len(p) + len(a) < LONGEST]
    model = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for step in range(steps):
        rate = RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = draw.sample(encoded, min(BATCH, len(encoded)))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = _loss(model, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    model.to(torch.bfloat16).save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    first, last = statistics.fmean(losses[:20]), statistics.fmean(losses[-20:])
    seconds = time.monotonic() - began
    return f"{name}: {len(encoded)} rows, loss {first:.3f} to {last:.3f}, {seconds:.0f} s"


def _loss(model: Any, batch: Sequence[tuple[list[int], list[int]]], device: str) -> torch.Tensor:
    """The mean loss of the answers' tokens; other positions get no logits."""
    longest = max(len(p) + len(a) for p, a in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, predicts = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(batch):
        whole = [*prompt, *answer]
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
        predicts[i, len(prompt) - 1 : len(whole) - 1] = True
    ids, mask, predicts = ids.to(device), mask.to(device), predicts.to(device)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    logits = model.lm_head(hidden[predicts]).float()
    targets = ids.roll(-1, 1)[predicts]
    return cross_entropy(logits, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=["base", *DOMAINS])
    given = parser.parse_args()
    wanted = given.only or ["base", *DOMAINS]
    given.out.mkdir(parents=True, exist_ok=True)
    if "base" in wanted and not (given.out / "study.yaml").exists():
        began = time.monotonic()
        layers = make_base(given.gguf, given.out)
        write_study(given.questions, given.out, layers)
        print(f"base: {layers} layers, {time.monotonic() - began:.0f} s", flush=True)
    for name, files in DOMAINS.items():
        if name in wanted and not (given.out / name).exists():
            learned = [
                row for file in files for row in rows(given.questions, file) if row.part < LEARNED
            ]
            print(finetune(given.out, name, learned, given.steps, given.device), flush=True)


if __name__ == "__main__":
    main()
