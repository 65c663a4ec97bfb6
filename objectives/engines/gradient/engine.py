"""An engine that also differentiates a loss with respect to the parameters of a recipe.

A step merges into the live model, and runs a forward and a backward pass for each packed row of
examples. The gradient of each tensor is contracted with the derivative of its merge as soon as it
is complete, and freed, so the gradient of the whole model is never in memory. Q: examples.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from objectives.derivatives.derivatives import Derivatives
from objectives.derivatives.variables import RecipeGradient
from objectives.engines.memory import ROW_TOKENS
from objectives.engines.transformers import TransformersEngine, out_of_memory_as_engine_error
from objectives.errors import EngineError, MergeError
from objectives.merge.recipe import MergeRecipe
from objectives.merge.stores import Store
from objectives.models.sources import Sources
from objectives.models.special_tokens import EndTokens

from .examples import Example, Gathering, Loss, probabilities
from .packing import Row, pack
from .tree_attention import BLOCK, NAME, RowMasks, UnsupportedAttentionError

log = logging.getLogger(__name__)

_PROBE = ((3, 5, 4, 6, 7), (3, 5, 4, 8))
_TOLERANCES = {torch.bfloat16: 0.02, torch.float16: 0.005}
"""The root mean square difference between the log-probabilities of packed and of padded sequences
that is always accepted, by dtype; 1e-3 for other dtypes."""
_NOISE_FACTOR = 4.0
"""A larger difference is accepted up to this multiple of the difference between two attention
implementations on the same padded sequences."""


@dataclass(frozen=True)
class Step:
    """The losses of one batch of examples, and the gradient with respect to a recipe."""

    losses_Q: tuple[float, ...]
    probabilities_Q: tuple[float, ...]
    """The probability of the right alternatives of each example (`examples.probabilities`)."""
    gradient: RecipeGradient
    """The derivative of the weighted sum of losses with respect to every value of the recipe."""
    tokens: int
    """Tokens read, padding included."""


class GradientEngine(TransformersEngine):
    """Answers prompts like TransformersEngine, and differentiates losses."""

    def __init__(
        self,
        sources: Sources,
        steps: Mapping[str, float],
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int = 4096,
        ends: EndTokens | None = None,
        store: Store | None = None,
        row_tokens: int = ROW_TOKENS,
        recompute: bool = True,
    ) -> None:
        """Create the model; see TransformersEngine for the other arguments.

        `steps` maps each parameter's name (and `lambda`) to the half width of its central
        difference, in the parameter's units. `row_tokens` is the maximum number of tokens of the
        examples in a packed row; a longer example is a row of its own. `recompute` repeats each
        layer's forward pass during the backward pass: a step takes a third longer, but only the
        inputs of all layers and the activations of one layer are in memory.
        """
        self._recompute = recompute
        super().__init__(sources, device, dtype, batch_tokens, ends, store)
        self._derivatives = Derivatives(self._stream, steps)
        self._row_tokens = row_tokens

    def _build(self, label: str | None) -> None:
        super()._build(label)
        self._default_attention: str = self._model.config._attn_implementation
        self._supports_packing, self._is_probed = True, False
        self._recomputed_layers: list[nn.Module] = []
        if self._recompute and self._model.supports_gradient_checkpointing:
            self._model.gradient_checkpointing_enable()
            layers = GradientCheckpointingLayer
            self._recomputed_layers = [m for m in self._model.modules() if isinstance(m, layers)]
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(partial(self._contract, name))
            parameter.requires_grad_(False)

    def _contract(self, name: str, parameter: Tensor) -> None:
        """Contract the complete gradient of a parameter, and free it."""
        if parameter.grad is not None:
            self._derivatives.add(name, parameter.grad)
            parameter.grad = None

    def step(
        self,
        recipe: MergeRecipe,
        examples: Sequence[Example],
        weights: Sequence[float] | None = None,
        loss: Loss = Loss(),  # noqa: B008 - frozen
    ) -> Step:
        """Merge, and differentiate the weighted sum of the examples' losses.

        By default all weights are equal and add up to 1. Raises EngineError.
        """
        self.load(recipe)
        shares = [1 / len(examples)] * len(examples) if weights is None else list(weights)
        losses, right, tokens = [0.0] * len(examples), [0.0] * len(examples), 0
        with out_of_memory_as_engine_error(), self._attention(), self._recomputing():
            self._derivatives.begin(recipe)
            self._model.requires_grad_(True)
            try:
                for indices in self._rows(examples):
                    part = [examples[i] for i in indices]
                    scores, read = self._scores(part)
                    losses_Q = loss.of(scores, part)
                    weights_Q = torch.tensor([shares[i] for i in indices], device=losses_Q.device)
                    torch.autograd.backward((losses_Q * weights_Q).sum())
                    tokens += read
                    right_Q = probabilities(scores.detach(), part)
                    rows = zip(indices, losses_Q.tolist(), right_Q.tolist(), strict=True)
                    for i, loss_i, right_i in rows:
                        losses[i], right[i] = loss_i, right_i
            except MergeError as error:
                raise EngineError(str(error)) from None
            finally:
                self._model.requires_grad_(False)
                self._model.zero_grad(set_to_none=True)
            return Step(tuple(losses), tuple(right), self._derivatives.total(), tokens)

    def losses(self, examples: Sequence[Example], loss: Loss = Loss()) -> list[float]:  # noqa: B008
        """Return each example's loss under the merge that is loaded. Raises EngineError."""
        losses = [0.0] * len(examples)
        with out_of_memory_as_engine_error(), self._attention(), torch.no_grad():
            for indices in self._rows(examples):
                part = [examples[i] for i in indices]
                values = loss.of(self._scores(part)[0], part).tolist()
                for i, value in zip(indices, values, strict=True):
                    losses[i] = value
        return losses

    @contextlib.contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Enable the recomputation of activations within this context.

        transformers recomputes activations of layers in training mode. Such layers ignore the
        key-value cache, which answers need for their shared prefix, so layers are in evaluation
        mode outside this context. Dropout modules always are.
        """
        try:
            for layer in self._recomputed_layers:
                layer.training = True
            yield
        finally:
            for layer in self._recomputed_layers:
                layer.training = False

    @contextlib.contextmanager
    def _attention(self) -> Iterator[None]:
        """Use the attention of packed rows in this context."""
        try:
            if not self._is_probed:
                self._probe()
            if self._supports_packing:
                self._model.set_attn_implementation(NAME)
            yield
        finally:
            self._model.set_attn_implementation(self._default_attention)

    def _rows(self, examples: Sequence[Example]) -> list[list[int]]:
        """Group the indices of examples into rows, in the order of their tokens."""
        order = sorted(range(len(examples)), key=lambda i: examples[i].sequences[0])
        rows: list[list[int]] = [[]]
        room = self._row_tokens
        for i in order:
            if rows[-1] and examples[i].tokens > room:
                rows.append([])
                room = self._row_tokens
            rows[-1].append(i)
            room -= examples[i].tokens
        return rows

    def _scores(self, examples: Sequence[Example]) -> tuple[Tensor, int]:
        """Return the scores of the alternatives, [Q, A], and the number of tokens read."""
        sequences = [s for example in examples for s in example.sequences]
        positions, first = [], 0
        for example in examples:
            for alternative in example.alternatives:
                positions += [
                    (first + alternative.sequence, target.position)
                    for target in alternative.targets
                ]
            first += len(example.sequences)
        read = self._forward_packed if self._supports_packing else self._forward_padded
        logits, places, tokens = read(sequences, positions)
        scores = Gathering.of(examples, places, self._device).scores(logits.float().log_softmax(-1))
        return scores, tokens

    def _forward_packed(
        self, sequences: Sequence[tuple[int, ...]], positions: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, list[int], int]:
        """Return logits at `positions` (sequence, position), their rows, and the token count."""
        row = pack(sequences)
        if self._device.startswith("cuda"):
            row = row.padded(BLOCK)
        places = [row.index(*pair) for pair in positions]
        indices = sorted(set(places))
        logits = self._forward_row(row, indices)
        rows = {index: i for i, index in enumerate(indices)}
        return logits, [rows[index] for index in places], len(row.tokens_T)

    def _forward_row(self, row: Row, indices: Sequence[int]) -> Tensor:
        """Return the logits after the tokens `indices` of a row, by index, [kept, vocabulary]."""
        device = self._model.device
        row_masks = RowMasks.of(row, device)
        output = self._model(
            input_ids=torch.from_numpy(row.tokens_T).to(device)[None],
            position_ids=row_masks.positions_T[None],
            use_cache=False,
            logits_to_keep=torch.tensor(indices, device=device),
            row_masks=row_masks,
        )
        if not row_masks.calls:
            raise UnsupportedAttentionError(type(self._model).__name__)
        logits: Tensor = output.logits[0]
        return logits

    def _forward_padded(
        self, sequences: Sequence[tuple[int, ...]], positions: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, list[int], int]:
        """Return the same as `_forward_packed`, computed from right-padded sequences."""
        longest = max(map(len, sequences))
        rows = [list(s) + [0] * (longest - len(s)) for s in sequences]
        ids = torch.tensor(rows, device=self._device)
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
        output = self._model(input_ids=ids, attention_mask=mask.to(self._device), use_cache=False)
        pairs = torch.tensor(list(positions), device=self._device)
        logits: Tensor = output.logits[pairs[:, 0], pairs[:, 1]]
        return logits, list(range(len(positions))), ids.numel()

    def _probe(self) -> None:
        """Check once whether this architecture reads packed rows correctly."""
        self._is_probed = True
        positions = [(0, 1), (0, 4), (1, 3)]
        with torch.no_grad():
            padded_logits, _, _ = self._forward_padded(_PROBE, positions)
            row = pack(_PROBE, min_shared=1)
            row = row.padded(BLOCK) if self._device.startswith("cuda") else row
            try:
                self._model.set_attn_implementation(NAME)
                packed_logits = self._forward_row(row, [row.index(*pair) for pair in positions])
            except (UnsupportedAttentionError, TypeError, KeyError) as error:
                self._supports_packing, reason = False, f"{type(error).__name__}: {error}"
            else:
                self._model.set_attn_implementation("eager")
                eager, _, _ = self._forward_padded(_PROBE, positions)
                difference, noise = (
                    _rms_difference(packed_logits, padded_logits),
                    _rms_difference(eager, padded_logits),
                )
                self._supports_packing = difference <= max(
                    _NOISE_FACTOR * noise, _TOLERANCES.get(packed_logits.dtype, 1e-3)
                )
                reason = f"log-probabilities differ by {difference:.2g}, from rounding {noise:.2g}"
            self._model.set_attn_implementation(self._default_attention)
        if not self._supports_packing:
            log.warning(
                "%s does not support packed sequences (%s); padded batches take longer",
                *(type(self._model).__name__, reason),
            )


def _rms_difference(packed_logits: Tensor, padded_logits: Tensor) -> float:
    """Return the root mean square difference of log-probabilities."""
    pair = [logits.float().log_softmax(-1) for logits in (packed_logits, padded_logits)]
    return float((pair[0] - pair[1]).square().mean().sqrt())
