"""The reference engine: transformers, on a CPU or a GPU.

B: prompts of a batch, T: their tokens after the shared ones, left-padded to the longest.
"""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.initialization import no_init_weights

from objectives.errors import EngineError, MergeError
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Store
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from objectives.models.special_tokens import EndTokens

from .engine import Answer, Prompt, said


class TransformersEngine:
    """Holds one model; `load` overwrites its weights in place."""

    def __init__(
        self,
        sources: Sources,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int = 4096,
        ends: EndTokens | None = None,
        store: Store | None = None,
    ) -> None:
        """`dtype` is what the model computes in; `batch_tokens` bounds a batch, padding and all.
        `ends` defaults to the end tokens of the sources. Merges are made where `store` holds the
        sources; by default on the CPU, from their files.
        """
        transformers.utils.logging.set_verbosity_error()
        self._sources, self._device, self._dtype = sources, device, dtype
        self._build(None)
        self._stream = MergeStream(sources, store)
        self._ends = sources.ends if ends is None else ends
        self._batch_tokens = batch_tokens
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}

    def _build(self, label: str | None) -> None:
        """Make the model that computes with the positions of the model `label`, or the merge's."""
        config = self._sources.parsed_config(self._dtype, label)
        with no_init_weights(), torch.device(self._device):
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, self._dtype), trust_remote_code=False
            )
        self._model.tie_weights()
        self._model.eval().requires_grad_(False)
        self._parameters = dict(self._model.named_parameters())
        self._config_label = label or self._sources.config_label_of_merges

    def load(self, recipe: MergeRecipe) -> None:
        with _memory_named():
            try:
                self._load(recipe)
            except MergeError as error:
                raise EngineError(str(error)) from None

    def _load(self, recipe: MergeRecipe) -> None:
        self._prefixes.clear()
        label = self._sources.config_label(recipe.alone)
        if label != self._config_label:
            self._parameters.clear()
            del self._model  # before there is another
            self._build(label)
        missing = set(self._parameters)
        for name, tensor in self._stream.tensors(recipe):
            live = self._parameters.get(name)
            if live is None or live.shape != tensor.shape:
                shape = "absent" if live is None else list(live.shape)
                raise EngineError(
                    f"merged tensor {name} is {list(tensor.shape)}, in the model {shape}"
                )
            live.copy_(tensor)
            missing.discard(name)
        if missing:
            raise EngineError(f"the merge lacks {len(missing)} tensors, first {min(missing)}")

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        with _memory_named(), torch.inference_mode():
            return self._answer(prompts)

    def _answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        groups = defaultdict(list)
        for i, prompt in enumerate(prompts):
            prefix = prompt.tokens[: prompt.shared]
            groups[prefix, prompt.max_tokens, prompt.stops].append(i)
        answers: dict[int, Answer] = {}
        for (prefix, max_tokens, stops), members in groups.items():
            members.sort(key=lambda i: len(prompts[i].tokens))
            for batch in self._batches([len(prompts[i].tokens) - len(prefix) for i in members]):
                chosen = [members[j] for j in batch]
                replies = self._batch([prompts[i] for i in chosen], prefix, max_tokens, stops)
                answers.update(zip(chosen, replies, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        self._prefixes.clear()
        self._parameters.clear()
        del self._model
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _batches(self, lengths: list[int]) -> Iterator[range]:
        """Runs of ascending lengths that fit `batch_tokens` when padded to their last."""
        start = 0
        for stop, length in enumerate(lengths):
            if stop > start and (stop + 1 - start) * length > self._batch_tokens:
                yield range(start, stop)
                start = stop
        yield range(start, len(lengths))

    def _batch(
        self,
        prompts: list[Prompt],
        prefix: tuple[int, ...],
        max_tokens: int,
        stops: frozenset[int],
    ) -> list[Answer]:
        own = [prompt.tokens[len(prefix) :] for prompt in prompts]
        ids_BT, mask_BT = _left_padded(own, self._device)
        mask_BT = torch.cat([mask_BT.new_ones(len(own), len(prefix)), mask_BT], dim=1)
        cache = self._prefix(prefix, len(own))
        logits = self._forward(ids_BT, mask_BT, cache)
        logprobs = logits.log_softmax(dim=-1)
        finite = torch.isfinite(logits).all(dim=-1)
        steps = [logits.argmax(dim=-1)]
        last = torch.tensor([*self._ends.all, *stops], dtype=torch.int64, device=logits.device)
        over = torch.isin(steps[0], last)
        while len(steps) < max_tokens and not over.all():
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(own), 1)], dim=1)
            logits = self._forward(steps[-1][:, None], mask_BT, cache)
            finite &= over | torch.isfinite(logits).all(dim=-1)
            steps.append(logits.argmax(dim=-1))
            over |= torch.isin(steps[-1], last)
        rows = torch.stack(steps, dim=1).tolist()
        wanted = [logprobs[b, list(prompt.options)].tolist() for b, prompt in enumerate(prompts)]
        return [
            Answer(said(row, prompt, self._ends.dropped, self._ends.kept), tuple(options), fine)
            for row, prompt, options, fine in zip(
                rows, prompts, wanted, finite.tolist(), strict=True
            )
        ]

    def _forward(self, ids_BT: Tensor, mask_BT: Tensor, cache: DynamicCache) -> Tensor:
        """Float32 logits of the next token, [B, vocabulary]."""
        positions = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        output = self._model(
            input_ids=ids_BT,
            attention_mask=None if mask_BT.all() else mask_BT,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _prefix(self, prefix: tuple[int, ...], copies: int) -> DynamicCache:
        """A cache that holds the prefix, once for each prompt of a batch."""
        if not prefix:
            return DynamicCache()
        if prefix not in self._prefixes:
            cache = DynamicCache()
            ids = torch.tensor([prefix], device=self._device)
            self._forward(ids, torch.ones_like(ids), cache)
            self._prefixes[prefix] = cache
        batch = copy.deepcopy(self._prefixes[prefix])
        batch.batch_repeat_interleave(copies)
        return batch


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Out of memory as an EngineError: the trial fails, the study goes on."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise EngineError(f"out of memory: {str(error).splitlines()[0]}") from None


def _left_padded(rows: list[tuple[int, ...]], device: str) -> tuple[Tensor, Tensor]:
    """Token ids and a mask that is 1 at tokens, both [B, T]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask.to(device)
