"""What a gradient step costs on a GPU: its kernels, its layers and its memory, on dummy weights.

    python benchmarks/gradient_parts.py 135m|7b [--method dare_ties] [--steps 5] [--keep]

Uses the project's kernels and attention and nothing else of it, so it needs torch and transformers
alone. A tensor has as many numbers as its models have, however many a genome has in all: 540 and
1,344 cost the same.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig
from transformers.initialization import no_init_weights

from objectives.derivatives import contraction
from objectives.derivatives import kernels as derivative_kernels
from objectives.engines.gradient.packing import pack
from objectives.engines.gradient.tree_attention import BLOCK, NAME, RowMasks
from objectives.merge import kernels, masks
from objectives.merge.catalogue import METHODS

M = 3
SIZES: dict[str, Any] = {
    "135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "7b": MistralConfig(vocab_size=32000, sliding_window=None),
}
ROWS = {
    "135m": ((84, 0, 150, 350), (12, 0, 250, 500)),
    "7b": ((84, 400, 60, 200), (12, 800, 207, 507)),
}
"""Questions of two tasks, 96: how many, the tokens that all share, those of their own."""


def seconds(work: Callable[[], Any], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rows(method: str, numbers: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Variants of a tensor's numbers, as `derivative_kernels.contract` takes them."""
    generator = torch.Generator().manual_seed(numbers)
    row = torch.ones(2 * numbers, 3 * M + 2)
    row[:, :M] = 0.7 + 0.028 * torch.randn(2 * numbers, M, generator=generator)
    row[:, 2 * M : 3 * M] = 0.001 if method == "ties" else 0.0
    below = torch.randint(40000, 50000, (2 * numbers, M), generator=generator, dtype=torch.int32)
    return row.cuda(), below.cuda(), torch.ones(2 * numbers, 2**M).cuda()


def check(method: str) -> str:
    """The kernel against the plain arithmetic in float64 sums, on the device."""
    shape = (1000, 1111)
    base = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    models = [base + 0.1 * torch.randn_like(base) for _ in range(M)]
    slope = torch.randn_like(base)
    words = [masks.key(0, str(m), "t") for m in range(M)]
    keys = torch.tensor([w - (1 << 64) if w >> 63 else w for w in (a | b << 32 for a, b in words)])
    drawn = [masks.draws(w, slope.shape, "cuda") for w in words]
    drop, trim, elect = (getattr(METHODS[method], n) for n in ("drops", "trims", "elects"))
    how = trim, elect, elect
    args = rows(method, 6)
    ours = derivative_kernels.contract(slope, base, models, keys.cuda(), *args, drop, *how)
    again = derivative_kernels.contract(slope, base, models, keys.cuda(), *args, drop, *how)
    theirs = contraction.contract(slope, base, models, drawn if drop else [], *args, *how)
    error = float((ours - theirs).norm() / theirs.norm())
    return f"kernel {method}: relative error {error:.1e}, again the same {torch.equal(ours, again)}"


def main() -> None:  # noqa: C901, PLR0915
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--method", default="dare_ties")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep activations, recompute nothing")
    given = parser.parse_args()
    torch.manual_seed(0)
    for method in ("task_arithmetic", "ties", "dare_ties"):
        print(check(method), flush=True)
    with no_init_weights(), torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(SIZES[given.size], dtype=torch.bfloat16)
    model.tie_weights()
    model.requires_grad_(True).eval()
    live, sources = dict(model.named_parameters()), {}
    for name, tensor in live.items():
        base = 0.02 * torch.randn_like(tensor) + (tensor.ndim == 1)
        sources[name] = [
            base.detach(),
            *(base.detach() + 0.002 * torch.randn_like(base) for _ in range(M)),
        ]
    if not given.keep:
        model.gradient_checkpointing_enable()
        for layer in model.model.layers:
            layer.training = True
    rules = METHODS[given.method]
    drop, trim, elect = rules.drops, rules.trims, rules.elects
    variants, keys = rows(given.method, 2 * M), torch.arange(1, M + 1).cuda()
    draws = torch.cat([keys, torch.full_like(keys, 45000)])
    parts: list[torch.Tensor] = []

    @torch.no_grad()
    def merge() -> None:
        for name, tensor in live.items():
            base, *models = sources[name]
            out = torch.empty_like(tensor)
            kernels.mix(
                *(out, base, models, variants[0][0], draws, variants[2][0]),
                *(drop, trim, elect, elect),
            )
            tensor.copy_(out)

    def contract(name: str, slope: torch.Tensor) -> None:
        base, *models = sources[name]
        how = drop, trim, elect, elect
        parts.append(derivative_kernels.contract(slope, base, models, keys, *variants, *how))

    def hook(name: str) -> Callable[[torch.Tensor], None]:
        def freed(tensor: torch.Tensor) -> None:
            assert tensor.grad is not None
            contract(name, tensor.grad)
            tensor.grad = None

        return freed

    for name, tensor in live.items():
        tensor.register_post_accumulate_grad_hook(hook(name))
    rng, texts = random.Random(0), []
    for count, shared, low, high in ROWS[given.size]:
        start = tuple(rng.randrange(30000) for _ in range(shared))
        for _ in range(count):
            own = range(rng.randint(low, high))
            texts.append(start + tuple(rng.randrange(30000) for _ in own))
    model.set_attn_implementation(NAME)
    losses: list[float] = []

    def step() -> None:
        parts.clear()
        merge()
        row = pack(texts).padded(BLOCK)
        row_masks = RowMasks.of(row, torch.device("cuda"))
        kept = torch.tensor([row.index(i, len(t) - 1) for i, t in enumerate(texts)]).cuda()
        ids = torch.from_numpy(row.tokens_T).cuda()[None]
        output = model(
            input_ids=ids,
            position_ids=row_masks.positions_T[None],
            use_cache=False,
            logits_to_keep=kept,
            row_masks=row_masks,
        )
        logprobs = output.logits[0].float().log_softmax(-1)
        loss = -logprobs[:, 7].mean()
        loss.backward()
        losses.append(float(loss))
        losses.append(float(torch.stack(parts).sum()))

    row = pack(texts).padded(BLOCK)
    first = seconds(step, 1)
    torch.cuda.reset_peak_memory_stats()
    whole = seconds(step, given.steps)
    peak = torch.cuda.max_memory_allocated() / 2**30
    slopes = {name: torch.randn_like(tensor) for name, tensor in list(live.items())[:12]}
    sizes = {tuple(s.shape): s for s in slopes.values()}

    def contractions() -> None:
        parts.clear()
        for name, tensor in live.items():
            if tuple(tensor.shape) in sizes:
                contract(name, sizes[tuple(tensor.shape)])

    merging, contracting = seconds(merge, 5), seconds(contractions, 5)
    count = sum(t.numel() for t in live.values())
    print(
        f"{given.size} {given.method} on {torch.cuda.get_device_name()}: "
        f"{count / 1e6:.0f}M weights, {len(live)} tensors, {2 * M} numbers each; "
        f"{len(texts)} questions, "
        f"{sum(map(len, texts))} tokens, packed {len(row.tokens_T)}; "
        f"{'activations kept' if given.keep else 'recomputed by layer'}\n"
        f"  first step {first:.1f} s, then {whole:.3f} s, peak {peak:.1f} GiB allocated, "
        f"{torch.cuda.max_memory_reserved() / 2**30:.1f} reserved\n"
        f"  merging {merging:.4f} s, contracting {contracting:.4f} s: "
        f"{(merging + contracting) / whole:.1%} of a step\n"
        f"  the same bits at each step: {len(set(losses[1::2])) == 1}",
        flush=True,
    )


if __name__ == "__main__":
    main()
