"""The reference engine: transformers, on a CPU or a GPU.

B: prompts of a batch, T: their tokens after the shared prefix, left-padded to the longest.
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
from objectives.merge.recipe import MergeRecipe, PathRecipe, Recipe
from objectives.merge.stores import Store
from objectives.merge.stream import MergeStream
from objectives.models.sources import Sources
from objectives.models.special_tokens import EndTokens

from .engine import Answer, Prompt


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
        """Create the model, which computes in `dtype`.

        A batch has at most `batch_tokens` tokens with padding. `ends` defaults to the end tokens of
        the sources. `store` holds the sources that are merged; it defaults to their files, merged
        on the CPU.
        """
        transformers.utils.logging.set_verbosity_error()
        self._sources, self._device, self._dtype = sources, device, dtype
        self._build(None)
        self._stream = MergeStream(sources, store)
        self._ends = sources.ends if ends is None else ends
        self._batch_tokens = batch_tokens
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}

    def _build(self, label: str | None) -> None:
        """Create the model from the config of the source `label`, or from that of merges."""
        config = self._sources.parsed_config(self._dtype, label)
        with no_init_weights(), torch.device(self._device):
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, self._dtype), trust_remote_code=False
            )
        self._model.tie_weights()
        self._model.eval().requires_grad_(False)
        self._parameters = dict(self._model.named_parameters())
        self._config_label = label or self._sources.config_label_of_merges

    def load(self, recipe: Recipe) -> None:
        """Merge and overwrite the model's weights. Raises EngineError."""
        if isinstance(recipe, PathRecipe):
            raise EngineError("this engine merges weights and loads no path of layers")
        with out_of_memory_as_engine_error():
            try:
                self._load(recipe)
            except MergeError as error:
                raise EngineError(str(error)) from None

    def _load(self, recipe: MergeRecipe) -> None:
        self._prefixes.clear()
        label = self._sources.config_label(recipe.copied_model)
        if label != self._config_label:
            self._parameters.clear()
            del self._model  # frees its memory before the next one is created
            self._build(label)
        missing = set(self._parameters)
        for name, tensor in self._stream.tensors(recipe):
            live = self._parameters.get(name)
            if live is None or live.shape != tensor.shape:
                expected = "does not have it" if live is None else f"expects {list(live.shape)}"
                raise EngineError(
                    f"the merged tensor {name} has the shape {list(tensor.shape)}; the model "
                    f"{expected}"
                )
            live.copy_(tensor)
            missing.discard(name)
        if missing:
            raise EngineError(
                f"the merge lacks {len(missing)} tensors; the first is {min(missing)}"
            )

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return one greedy answer for each prompt, in their order. Raises EngineError."""
        with out_of_memory_as_engine_error(), torch.inference_mode():
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
                indices = [members[j] for j in batch]
                in_batch = self._batch([prompts[i] for i in indices], prefix, max_tokens, stops)
                answers.update(zip(indices, in_batch, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Release the model's memory."""
        self._prefixes.clear()
        self._parameters.clear()
        del self._model
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _batches(self, lengths: list[int]) -> Iterator[range]:
        """Yield ranges of the ascending `lengths`, each within `batch_tokens` after padding."""
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
        """Answer prompts that share a prefix, a maximum length and their stops."""
        suffixes = [prompt.tokens[len(prefix) :] for prompt in prompts]
        ids_BT, mask_BT = _left_padded(suffixes, self._device)
        mask_BT = torch.cat([mask_BT.new_ones(len(suffixes), len(prefix)), mask_BT], dim=1)
        cache = self._prefix(prefix, len(suffixes))
        logits = self._forward(ids_BT, mask_BT, cache)
        logprobs = logits.log_softmax(dim=-1)
        finite = torch.isfinite(logits).all(dim=-1)
        steps = [logits.argmax(dim=-1)]
        last = torch.tensor([*self._ends.all, *stops], dtype=torch.int64, device=logits.device)
        ended = torch.isin(steps[0], last)
        while len(steps) < max_tokens and not ended.all():
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(suffixes), 1)], dim=1)
            logits = self._forward(steps[-1][:, None], mask_BT, cache)
            finite &= ended | torch.isfinite(logits).all(dim=-1)
            steps.append(logits.argmax(dim=-1))
            ended |= torch.isin(steps[-1], last)
        rows = torch.stack(steps, dim=1).tolist()
        of_options = [
            logprobs[b, list(prompt.options)].tolist() for b, prompt in enumerate(prompts)
        ]
        return [
            Answer.of(
                *(prompt, row, tuple(options), is_finite),
                *(self._ends.dropped, self._ends.kept),
            )
            for row, prompt, options, is_finite in zip(
                rows, prompts, of_options, finite.tolist(), strict=True
            )
        ]

    def _forward(self, ids_BT: Tensor, mask_BT: Tensor, cache: DynamicCache) -> Tensor:
        """Return float32 logits of the next token, [B, vocabulary size]."""
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
        """Return a cache that holds `copies` copies of the prefix."""
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
def out_of_memory_as_engine_error() -> Iterator[None]:
    """Raise EngineError if the device is out of memory: the trial fails, the study continues."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise EngineError(f"out of memory: {str(error).splitlines()[0]}") from None


def _left_padded(rows: list[tuple[int, ...]], device: str) -> tuple[Tensor, Tensor]:
    """Return token ids and a mask that is 1 at tokens and 0 at padding, both [B, T]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask.to(device)
