"""Attention over a packed row, for architectures that use transformers' AttentionInterface.

Attention with a soft cap on its logits or with sinks is not supported.

On a GPU it is computed by FlexAttention (Dong et al. 2024), whose kernels are deterministic and
skip empty blocks of the mask. On a CPU, and for heads with fewer than 16 dimensions, it is computed
by scaled dot-product attention with a dense mask.

T: tokens of the row, B: blocks of 128 tokens.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from .packing import Row

NAME = "merge_study_tree"
BLOCK = 128
_MIN_HEAD_SIZE = 16
"""The minimum number of dimensions of a head for FlexAttention's kernels."""


class UnsupportedAttentionError(Exception):
    """`attend` cannot replace the attention of an architecture, whose class the message names."""


@dataclass
class RowMasks:
    """The attention masks of a row: one for each sliding window, computed once for all layers.

    `window` is the number of positions of a layer's sliding window, or None for full attention.
    """

    last_T: Tensor
    """The index of the last token that attends to each token."""
    positions_T: Tensor
    masks: dict[int | None, Tensor | BlockMask] = field(default_factory=dict)
    calls: int = 0
    """The number of calls of `attend`. It stays 0 if a model does not pass this object to its
    layers."""

    @classmethod
    def of(cls, row: Row, device: torch.device) -> "RowMasks":
        """Return the masks of a row on a device."""
        return cls(
            torch.from_numpy(row.last_T).to(device), torch.from_numpy(row.positions_T).to(device)
        )

    def dense(self, window: int | None) -> Tensor:
        """Return the mask as booleans, [T, T]: element [q, k] is whether token q attends to k."""
        if window not in self.masks:
            indices = torch.arange(len(self.last_T), device=self.last_T.device)
            attends = (indices <= indices[:, None]) & (self.last_T >= indices[:, None])
            if window is not None:
                attends &= self.positions_T[:, None] - self.positions_T < window
            self.masks[window] = attends
        mask = self.masks[window]
        assert isinstance(mask, Tensor)
        return mask

    def blocks(self, window: int | None) -> BlockMask:
        """Return the mask of `dense` in the form of FlexAttention, in blocks of 128 tokens."""
        if window not in self.masks:
            self.masks[window] = _blocks(self.last_T, self.positions_T, window)
        mask = self.masks[window]
        assert isinstance(mask, BlockMask)
        return mask


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    row_masks: RowMasks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the output of a layer's attention, [1, T, heads, size], and None for its weights.

    The signature is that of AttentionInterface. `query`, `key` and `value` have the shape
    [1, heads, T, size]; keys and values may have fewer heads. The mask is that of `row_masks`, and
    `attention_mask` and `dropout` are ignored. Raises UnsupportedAttentionError if `row_masks` is
    missing, or if the layer has a soft cap or sinks.
    """
    if row_masks is None or any(kwargs.get(name) is not None for name in ("softcap", "s_aux")):
        raise UnsupportedAttentionError(type(module).__name__)
    row_masks.calls += 1
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda and min(query.shape[-1], value.shape[-1]) >= _MIN_HEAD_SIZE:
        mask = row_masks.blocks(sliding_window)
        out = _flex()(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    else:
        attends = row_masks.dense(sliding_window)
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=attends, scale=scaling, enable_gqa=grouped
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)


@functools.cache
def _flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def _blocks(last_T: Tensor, positions_T: Tensor, window: int | None) -> BlockMask:
    """Return the mask of a row whose length is a multiple of 128.

    FlexAttention skips empty blocks, and calls `attends` only in blocks that are not full. With a
    window no block is marked as full.
    """

    def attends(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        visible = (k <= q) & (last_T[k] >= q)
        return visible if window is None else visible & (positions_T[q] - positions_T[k] < window)

    last_B = last_T.view(-1, BLOCK)
    indices = torch.arange(len(last_B), device=last_T.device)
    causal = indices <= indices[:, None]
    non_empty = causal & (last_B.amax(dim=1) >= BLOCK * indices[:, None])
    full = causal & (indices != indices[:, None])
    full &= last_B.amin(dim=1) >= BLOCK * indices[:, None] + BLOCK - 1
    if window is not None:
        full = torch.zeros_like(full)
    return BlockMask.from_kv_blocks(
        *_counts_and_indices(non_empty & ~full),
        *_counts_and_indices(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=attends,
    )


def _counts_and_indices(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of chosen blocks in each row of blocks, and the order of its blocks.

    The order is that of their column indices, with the chosen blocks before the others. Both
    results have a batch and a head dimension of 1 in front.
    """
    counts = chosen.sum(dim=1, dtype=torch.int32)
    order = torch.argsort(chosen.int(), dim=1, descending=True, stable=True).int()
    return counts[None, None], order[None, None]
