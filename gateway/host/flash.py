"""Attention as a GPU wants it: few launches, whatever the lengths of the texts.

Two ways to the same numbers as `attention`: over a block that is padded, whose mask lies on the device and whose shape
can be captured; and over texts laid end to end, one kernel for all lengths, where the device has it. Queries, keys and
values come as [rows, 3 * width], the result is [rows, width].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from gateway.host.attention import Bias

HALVES: Final = (torch.float16, torch.bfloat16)
LEAST_CAPABILITY: Final = (8, 0)  # Ampere: what the flash kernels are written for
HEAD_STEP: Final = 8  # numbers: heads of other widths would have to be padded
WIDEST_HEAD: Final = 256

# query, key, value [rows, heads, width], where texts begin and end (twice), the longest text (twice)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Any]


class Masked:
    """Over texts of one padded length; `mask` [texts, length] is 1 for tokens and 0 for padding, on the device."""

    def __init__(self, mask: Tensor, heads: int, dtype: torch.dtype, bias: Bias | None = None) -> None:
        self._heads = heads
        self._shape = mask.shape
        least = torch.finfo(dtype).min  # not infinity: a text without tokens gives numbers, which nobody reads
        hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, least)
        self._added = hidden[:, None, None, :]
        if bias is not None:
            self._added = self._added + bias(mask.shape[1])[None]

    def __call__(self, qkv: Tensor) -> Tensor:
        split = qkv.view(*self._shape, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self._added)
        return found.transpose(1, 2).reshape(qkv.shape[0], -1)


class Flash:
    """Over texts laid end to end: text `i` is the rows `bounds[i]` to `bounds[i + 1]` (int32, on the device).

    `longest` is a text's, in rows. See `can_flash`.
    """

    def __init__(self, bounds: Tensor, longest: int, heads: int, kernel: Kernel | None = None) -> None:
        self._bounds = bounds
        self._longest = longest
        self._heads = heads
        self._kernel = kernel or _varlen()

    def __call__(self, qkv: Tensor) -> Tensor:
        rows = qkv.shape[0]
        query, key, value = qkv.view(rows, 3, self._heads, -1).unbind(1)
        longest, bounds = self._longest, self._bounds
        found: Tensor = self._kernel(query, key, value, bounds, bounds, longest, longest)
        return found.reshape(rows, -1)


def can_flash(dtype: torch.dtype, head_width: int, device: str) -> bool:
    """Whether the device attends to texts laid end to end. Scores with a bias never can."""
    if dtype not in HALVES or head_width % HEAD_STEP or head_width > WIDEST_HEAD:
        return False
    return torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def _varlen() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - a young module of torch, for GPUs alone

    return varlen_attn
