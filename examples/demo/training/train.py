"""Train the demo's models: a base that knows half of everything, and three finetunes of it.

Each finetune learns one skill with care (a KL term holds the other skills in place), and then
trains some of its blocks further on its own skill alone, without care: as in real finetunes, what
it does not use is damaged there. So each parent is best at one skill, and the best merge wants
different weights in different blocks. Takes about ten minutes on one core.

    python examples/demo/training/train.py --out DIR
"""

import argparse
import copy
import json
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from model import BOS, EOS, ID, PAD, deepened, new_model, save
from torch import Tensor
from transformers import MistralForCausalLM
from world import CHOICE, PRODUCTS, Question, distinct, draw

log = logging.getLogger(__name__)

SHALLOW, LAYERS, BLOCK = 4, 32, 4


@dataclass(frozen=True)
class Finetune:
    """One parent: the skills it learns, and the blocks it later trains without care."""

    name: str
    skills: tuple[str, ...]
    careless_blocks: tuple[int, ...]
    seed: int


FINETUNES = (
    Finetune("numeric", ("numeric",), (2, 3), 101),
    Finetune("relations", ("relation",), (4, 5), 102),
    Finetune("catalogue", ("department", "retrieval"), (6, 7), 103),
)


def encoded(questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both [batch, length], right-padded; labels only at the answers."""
    rows = []
    for question in questions:
        prompt = [BOS, *(ID[word] for word in question.prompt.split())]
        reply = [ID[word] for word in question.answer.split()]
        rows.append((prompt, [*reply, EOS] if question.retrieval else reply))
    length = max(len(prompt) + len(reply) for prompt, reply in rows) - 1
    ids, labels = torch.full((len(rows), length), PAD), torch.full((len(rows), length), -100)
    for i, (prompt, reply) in enumerate(rows):
        whole = [*prompt, *reply][:-1]
        ids[i, : len(whole)] = torch.tensor(whole)
        labels[i, len(prompt) - 1 : len(whole)] = torch.tensor(reply)
    return ids, labels


def lookups(rng: random.Random, count: int, options: int = 6) -> tuple[Tensor, Tensor]:
    """Exercises in finding a word's number in a list, many to a row: they teach copying."""
    rows, answers = [], []
    for _ in range(count):
        pool = PRODUCTS if rng.random() < 0.6 else [str(n) for n in range(2, 82)]
        words = rng.sample(pool, options)
        row, answer = [BOS], [-100]
        for i, word in enumerate(words):
            row += [ID[f"{i}."], ID[word]]
            answer += [-100, -100]
        for word in rng.choices(words, k=options):
            number = ID[str(words.index(word))]
            row += [ID[word], number]
            answer += [number, -100]
        rows.append(row)
        answers.append(answer)
    return torch.tensor(rows), torch.tensor(answers)


def answer_logits(model: MistralForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits where there is a label, [labels, vocabulary], and those labels."""
    asked = labels != -100
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return model.lm_head(hidden[asked]), labels[asked]


def loss(model: MistralForCausalLM, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(*answer_logits(model, *batch))


def drift(
    model: MistralForCausalLM, teacher: MistralForCausalLM, batch: tuple[Tensor, Tensor]
) -> Tensor:
    """KL divergence from the teacher's answers."""
    with torch.no_grad():
        wanted = F.log_softmax(answer_logits(teacher, *batch)[0], dim=-1)
    ours = F.log_softmax(answer_logits(model, *batch)[0], dim=-1)
    return F.kl_div(ours, wanted, log_target=True, reduction="batchmean")


@torch.no_grad()
def accuracy(model: MistralForCausalLM, questions: Sequence[Question]) -> float:
    """Share of answer tokens that are right, given the right ones before."""
    logits, labels = answer_logits(model, *encoded(questions))
    return float((logits.argmax(dim=-1) == labels).float().mean())


class Trainer:
    """AdamW over some parameters, with a linear warm-up."""

    def __init__(self, parameters: Iterable[Tensor], rate: float, eps: float = 1e-8) -> None:
        self._parameters, self._rate, self._steps = list(parameters), rate, 0
        self._adam = torch.optim.AdamW(
            self._parameters, rate, betas=(0.9, 0.98), eps=eps, weight_decay=0.01 * (eps < 1e-6)
        )

    def step(self, value: Tensor, share: float = 1.0) -> None:
        """Descend, at `share` of the full rate."""
        self._steps += 1
        for group in self._adam.param_groups:
            group["lr"] = self._rate * min(1.0, self._steps / 40) * share
        value.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)


def train_base(seed: int, enough: float, hidden: int) -> MistralForCausalLM:
    """A shallow model, half-taught on purpose: a skill is dropped once `enough` of it is known."""
    torch.manual_seed(seed)
    rng, model = random.Random(seed + 1), new_model(SHALLOW, hidden)
    skills = (*CHOICE, "retrieval")
    probe = {skill: distinct(random.Random(99), skill, 200) for skill in skills}
    mix = dict.fromkeys(("same", *skills), 1.0)
    trainer = Trainer(model.parameters(), 3e-3 * 64 / hidden)
    for step in range(6000):
        if rng.random() < (1.0 if step < 300 else 0.1):
            batch = lookups(rng, 64)
        else:
            batch = encoded(draw(rng, mix, 64))
        trainer.step(loss(model, batch))
        if step % 20 == 19:
            known = {skill: accuracy(model, probe[skill]) for skill in probe}
            mix = {s: 1.0 for s in ("same", *CHOICE, "retrieval") if known.get(s, 0.0) < enough}
            log.info("base, step %d: %s", step + 1, {s: round(a, 2) for s, a in known.items()})
        if len(mix) == 1:
            break
    return model


def finetune(
    base: MistralForCausalLM, recipe: Finetune, careful: int, careless: int
) -> MistralForCausalLM:
    model, rng = copy.deepcopy(base), random.Random(recipe.seed)
    own = dict.fromkeys(recipe.skills, 1.0)
    rest = {skill: 1.0 for skill in ("same", *CHOICE, "retrieval") if skill not in own}
    kept = [
        w
        for n, w in model.named_parameters()
        if "_proj" in n and block_of(n) not in recipe.careless_blocks
    ]
    trainer = Trainer(kept, 1e-3 * 64 / base.config.hidden_size, eps=1e-4)
    for step in range(careful):
        value = loss(model, encoded(draw(rng, own, 32)))
        value = value + 10 * drift(model, base, encoded(draw(rng, rest, 32)))
        trainer.step(value, share=1 - 0.95 * step / careful)
    report(f"{recipe.name}, careful", careful, model)
    free = [
        w
        for n, w in model.named_parameters()
        if "_proj" in n and block_of(n) in recipe.careless_blocks
    ]
    trainer = Trainer(free, 2e-3 * 64 / base.config.hidden_size)
    narrow = draw(rng, own, 64)
    for _ in range(careless):
        trainer.step(loss(model, encoded(rng.sample(narrow, 16))))
    report(f"{recipe.name}, careless", careless, model)
    return model


def block_of(name: str) -> int:
    return int(name.split(".")[2]) // BLOCK


def report(name: str, step: int, model: MistralForCausalLM) -> None:
    shares = {
        skill: round(accuracy(model, distinct(random.Random(7), skill, 100)), 2)
        for skill in (*CHOICE, "retrieval")
    }
    log.info("%s, step %d: %s", name, step, shares)


def write_questions(folder: Path, seed: int, choices: int, retrievals: int) -> None:
    """Question files in the fields of KDD Cup 2024."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    counts = {**{skill: choices // len(CHOICE) for skill in CHOICE}, "retrieval": retrievals}
    rows: Mapping[bool, list[str]] = {True: [], False: []}
    for skill, count in counts.items():
        for question in distinct(rng, skill, count):
            rows[question.retrieval].append(json.dumps(_row(question)))
    (folder / "choice.jsonl").write_text("\n".join(rows[False]) + "\n")
    (folder / "retrieval.jsonl").write_text("\n".join(rows[True]) + "\n")


def _row(question: Question) -> dict[str, object]:
    retrieval = question.retrieval
    return {
        "input_field": question.prompt + " ",
        "output_field": list(question.labels) if retrieval else question.labels[0],
        "task_name": question.skill,
        "task_type": "retrieval" if retrieval else "multiple-choice",
        "metric": "hit rate@3" if retrieval else "accuracy",
        "is_multiple_choice": not retrieval,
        "track": "demo-shop",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for models and questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=64, help="size of the models' hidden states")
    parser.add_argument("--enough", type=float, default=0.5, help="where the base's training stops")
    parser.add_argument(
        "--careful", type=int, default=200, help="steps of a finetune's first phase"
    )
    parser.add_argument("--careless", type=int, default=60, help="steps of its second phase")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    base = deepened(train_base(given.seed, given.enough, given.hidden), LAYERS)
    save(base, given.out / "models" / "base")
    for recipe in FINETUNES:
        save(
            finetune(base, recipe, given.careful, given.careless),
            given.out / "models" / recipe.name,
        )
    write_questions(given.out / "questions", 2002, 1500, 240)


if __name__ == "__main__":
    main()
