"""Attention within each text, whatever else shares the device call.

Queries, keys and values come as one block [rows, 3 * width], as one matrix product makes them; the result is
[rows, width]. Rows that belong to no text stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from gateway.host.segments import Group

Attend = Callable[[Tensor], Tensor]
Bias = Callable[[int], Tensor]  # length -> [heads, length, length], added to the scores

BUCKETS: Final = 32  # of relative distances, in T5 and MPNet
FARTHEST: Final = 128  # the distance from which all share one bucket


class Grouped:
    """Attention group by group, made once for a device call and used by each of its layers."""

    def __init__(self, groups: Sequence[Group], heads: int, bias: Bias | None = None) -> None:
        self._heads = heads
        masks = [None if bias is None else bias(group.length)[None] for group in groups]
        self._groups = list(zip(groups, masks, strict=True))

    def __call__(self, qkv: Tensor) -> Tensor:
        rows, width = qkv.shape[0], qkv.shape[1] // 3
        if len(self._groups) == 1 and self._groups[0][0].end == rows:
            return self._attend(qkv, *self._groups[0]).reshape(rows, width)
        context = qkv.new_zeros(rows, width)
        for group, mask in self._groups:
            part = qkv[group.begin : group.end]
            block = context[group.begin : group.end].view(group.count, group.length, self._heads, -1)
            block.copy_(self._attend(part, group, mask))
        return context

    def _attend(self, qkv: Tensor, group: Group, mask: Tensor | None) -> Tensor:
        """[count, length, heads, width / heads]"""
        split = qkv.view(group.count, group.length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def relative(table: Tensor) -> Bias:
    """MPNet's bias: `table` [buckets, heads] by the distance between two tokens."""

    def bias(length: int) -> Tensor:
        places = torch.arange(length, device=table.device)
        return table[bucket(places[None, :] - places[:, None])].permute(2, 0, 1).contiguous()

    return bias


def bucket(distance: Tensor) -> Tensor:
    """The bucket of each distance: near ones have their own, far ones share by the logarithm. Half are for each side.

    Source: "Exploring the Limits of Transfer Learning", section 2.1 (T5), as MPNet uses it.
    """
    half = BUCKETS // 2
    exact = half // 2
    steps = distance.abs()
    far = exact + (torch.log(steps.float() / exact) / math.log(FARTHEST / exact) * (half - exact)).to(torch.long)
    return half * (distance > 0).to(torch.long) + torch.where(steps < exact, steps, far.clamp(max=half - 1))
