"""An engine that also says how a loss changes with a recipe's numbers.

One step merges into the live model, reads the lessons in packed rows, and goes back through the
layers. What a backward pass gives for a tensor is contracted with the derivative of its merge as
soon as it is whole, and freed: the gradient of the whole model never exists. Q: lessons.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from objectives.merge.derivatives import Derivatives
from objectives.merge.recipe import MergeRecipe
from objectives.merge.slots import RecipeGradient
from objectives.merge.sources import Sources
from objectives.merge.stores import Store

from .lessons import Gathering, Lesson, Loss
from .packing import Row, packed
from .transformers import TransformersEngine, _memory_named
from .tree_attention import BLOCK, NAME, Layout, UnsupportedAttentionError

log = logging.getLogger(__name__)

_PROBE = ((3, 5, 4, 6, 7), (3, 5, 4, 8))
_ALIKE = {torch.bfloat16: 0.15, torch.float16: 0.05}
"""How far log-probabilities of a packed row may be from those of sequences read one by one."""


@dataclass(frozen=True)
class Step:
    """What one batch of lessons says about a recipe."""

    losses_Q: tuple[float, ...]
    gradient: RecipeGradient
    """Of the weighted sum of the losses, by every value of the recipe, in float64."""
    tokens: int
    """That were read, padding and all."""


class GradientEngine(TransformersEngine):
    """Answers prompts as its parent does, and takes steps."""

    def __init__(
        self,
        sources: Sources,
        steps: Mapping[str, float],
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int = 4096,
        store: Store | None = None,
        row_tokens: int = 1 << 15,
        recompute: bool = True,
    ) -> None:
        """`steps` is what Derivatives takes; `row_tokens` bounds a packed row; with `recompute`
        a layer's activations are made again on the way back, which takes a third more time and
        leaves those of one layer in memory."""
        super().__init__(sources, device, dtype, batch_tokens, store)
        self._derivatives = Derivatives(self._stream, steps)
        self._row_tokens, self._packs = row_tokens, True
        self._usual: str = self._model.config._attn_implementation
        if recompute and self._model.supports_gradient_checkpointing:
            self._model.gradient_checkpointing_enable()
            for module in self._model.modules():  # a layer in training, its dropouts not
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(_Hook(self._derivatives, name))
            parameter.requires_grad_(False)
        self._probed = False

    def step(
        self,
        recipe: MergeRecipe,
        lessons: Sequence[Lesson],
        weights: Sequence[float] | None = None,
        loss: Loss = Loss(),  # noqa: B008 - frozen
    ) -> Step:
        """Merge, and differentiate the sum of `weights` times the lessons' losses; without weights
        their mean. Raises EngineError."""
        self.load(recipe)
        shares = [1 / len(lessons)] * len(lessons) if weights is None else list(weights)
        losses, tokens = [0.0] * len(lessons), 0
        with _memory_named(), self._attention():
            self._derivatives.begin(recipe)
            self._model.requires_grad_(True)
            try:
                for chosen in self._rows(lessons):
                    part = [lessons[i] for i in chosen]
                    scores, read = self._scores(part)
                    losses_Q = loss.of(scores, part)
                    given = torch.tensor([shares[i] for i in chosen], device=losses_Q.device)
                    torch.autograd.backward((losses_Q * given).sum())
                    tokens += read
                    for i, value in zip(chosen, losses_Q.tolist(), strict=True):
                        losses[i] = value
            finally:
                self._model.requires_grad_(False)
                self._model.zero_grad(set_to_none=True)
            return Step(tuple(losses), self._derivatives.total(), tokens)

    def losses(self, lessons: Sequence[Lesson], loss: Loss = Loss()) -> list[float]:  # noqa: B008
        """Each lesson's loss under the merge that is loaded. Raises EngineError."""
        found = [0.0] * len(lessons)
        with _memory_named(), self._attention(), torch.no_grad():
            for chosen in self._rows(lessons):
                part = [lessons[i] for i in chosen]
                values = loss.of(self._scores(part)[0], part).tolist()
                for i, value in zip(chosen, values, strict=True):
                    found[i] = value
        return found

    @contextlib.contextmanager
    def _attention(self) -> Iterator[None]:
        """Until the way back is done, layers attend as the rows need it."""
        try:
            if not self._probed:
                self._probe()
            if self._packs:
                self._model.set_attn_implementation(NAME)
            yield
        finally:
            self._model.set_attn_implementation(self._usual)

    def _rows(self, lessons: Sequence[Lesson]) -> list[list[int]]:
        """Lessons that fit a row together, those that begin alike beside each other."""
        order = sorted(range(len(lessons)), key=lambda i: lessons[i].sequences[0])
        rows: list[list[int]] = [[]]
        room = self._row_tokens
        for i in order:
            if rows[-1] and lessons[i].tokens > room:
                rows.append([])
                room = self._row_tokens
            rows[-1].append(i)
            room -= lessons[i].tokens
        return rows

    def _scores(self, lessons: Sequence[Lesson]) -> tuple[Tensor, int]:
        """Scores of the alternatives, [Q, A], and the tokens that were read."""
        sequences = [s for lesson in lessons for s in lesson.sequences]
        wanted, first = [], 0
        for lesson in lessons:
            for alternative in lesson.alternatives:
                wanted += [
                    (first + alternative.sequence, mark.position) for mark in alternative.marks
                ]
            first += len(lesson.sequences)
        read = self._packed if self._packs else self._padded
        logits, places, tokens = read(sequences, wanted)
        scores = Gathering.of(lessons, places, self._device).scores(logits.float().log_softmax(-1))
        return scores, tokens

    def _packed(
        self, sequences: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, list[int], int]:
        """Logits of the places wanted, the row of each, and the tokens read."""
        row = packed(sequences)
        if self._device.startswith("cuda"):
            row = row.padded(BLOCK)
        places = [row.place(*pair) for pair in wanted]
        kept = sorted(set(places))
        logits = self._read(row, kept)
        rows = {place: i for i, place in enumerate(kept)}
        return logits, [rows[place] for place in places], len(row.tokens_T)

    def _read(self, row: Row, kept: Sequence[int]) -> Tensor:
        """Logits after some tokens of a row, [kept, vocabulary]."""
        device = self._model.device
        layout = Layout.of(row, device)
        output = self._model(
            input_ids=torch.from_numpy(row.tokens_T).to(device)[None],
            position_ids=layout.positions_T[None],
            use_cache=False,
            logits_to_keep=torch.tensor(kept, device=device),
            layout=layout,
        )
        if not layout.calls:
            raise UnsupportedAttentionError(type(self._model).__name__)
        logits: Tensor = output.logits[0]
        return logits

    def _padded(
        self, sequences: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, list[int], int]:
        """The same from sequences side by side, padded after their ends."""
        longest = max(map(len, sequences))
        rows = [list(s) + [0] * (longest - len(s)) for s in sequences]
        ids = torch.tensor(rows, device=self._device)
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
        output = self._model(input_ids=ids, attention_mask=mask.to(self._device), use_cache=False)
        where = torch.tensor(list(wanted), device=self._device)
        logits: Tensor = output.logits[where[:, 0], where[:, 1]]
        return logits, list(range(len(wanted))), ids.numel()

    def _probe(self) -> None:
        """Find out once whether this architecture reads packed rows right."""
        self._probed = True
        wanted = [(0, 1), (0, 4), (1, 3)]
        with torch.no_grad():
            theirs, _, _ = self._padded(_PROBE, wanted)
            row = packed(_PROBE, least=1)
            row = row.padded(BLOCK) if self._device.startswith("cuda") else row
            try:
                self._model.set_attn_implementation(NAME)
                ours = self._read(row, [row.place(*pair) for pair in wanted])
            except (UnsupportedAttentionError, TypeError, KeyError) as error:
                self._packs, reason = False, f"{type(error).__name__}: {error}"
            else:
                pair = [z.float().log_softmax(-1) for z in (ours, theirs)]
                apart = float((pair[0] - pair[1]).abs().max())
                self._packs = apart <= _ALIKE.get(ours.dtype, 1e-3)
                reason = f"log-probabilities differ by {apart:.2g}"
        if not self._packs:
            self._model.set_attn_implementation(self._usual)
            log.warning(
                "%s cannot read packed sequences (%s): batches are padded, steps take longer",
                *(type(self._model).__name__, reason),
            )


class _Hook:
    """Takes a parameter's gradient when it is whole, and frees it."""

    def __init__(self, derivatives: Derivatives, name: str) -> None:
        self._derivatives, self._name = derivatives, name

    def __call__(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        if parameter.grad is not None:
            self._derivatives.add(self._name, parameter.grad)
            parameter.grad = None
