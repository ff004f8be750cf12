"""The numbers of one device call, as few of them as can be: what is known of lengths is worked out on the device.

A padded call is one array [rows, HEAD + length]: for each text how many tokens it has, how many at its head are not
pooled, and its ids, padded on the right. It may have more rows and columns than its texts need; a row too many is a
text of one token. A packed call has the ids of all texts end to end [tokens], where each begins and the last one ends
[texts + 1], and how many of each are not pooled [texts]. Nothing here looks at a number on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gateway.host.planes import Shape
from gateway.host.segments import Integers

HEAD: Final = 2  # columns before the ids


def padded(batch: Sequence[Integers], left_out: Integers, shape: Shape, pad_id: int) -> Integers:
    """The batch as the first rows of a call of this shape, which holds it."""
    found = np.full((shape[0], HEAD + shape[1]), pad_id, dtype=np.int64)
    texts, ids = len(batch), found[: len(batch), HEAD:]
    found[:, 0] = 1
    found[:texts, 0] = lengths(batch)
    found[:, 1] = 0
    found[:texts, 1] = left_out
    ids[np.arange(shape[1]) < found[:texts, :1]] = np.concatenate(batch)
    return found


def packed(batch: Sequence[Integers], left_out: Integers) -> list[Integers]:
    """Ids, bounds, and what is left out."""
    return [np.concatenate(batch), np.concatenate([[0], np.cumsum(lengths(batch))]), left_out]


def lengths(batch: Sequence[Integers]) -> Integers:
    return np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))


def split(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a padded call: ids, mask (1 for tokens), and kept (1 for what is pooled), all [rows, length]."""
    ids = numbers[:, HEAD:].contiguous()
    mask, kept = masks(numbers[:, 0], numbers[:, 1], ids.shape[1])
    return ids, mask, kept


def masks(tokens: Tensor, left_out: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Of texts of so many `tokens`, `left_out` of them at the head: mask and kept [texts, length]."""
    columns = torch.arange(length, device=tokens.device)
    mask = columns < tokens[:, None]
    return mask.long(), (mask & (columns >= left_out[:, None])).long()


def positions(ids: Tensor, skipped: int | None) -> Tensor:
    """[rows, length]: each token's place in its text, from 0; or, where tokens of the id `skipped` are not counted,
    from behind that id, which is what these tokens themselves get."""
    if skipped is None:
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    real = (ids != skipped).long()
    return real.cumsum(1) * real + skipped


def places(tokens: int, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Of a packed call: each token's text, and its place there, from 0; both [tokens]."""
    rows = torch.arange(tokens, device=bounds.device)
    texts = torch.searchsorted(bounds, rows, right=True) - 1
    return texts, rows - bounds[texts]


def packed_positions(ids: Tensor, bounds: Tensor, texts: Tensor, within: Tensor, skipped: int | None) -> Tensor:
    """`positions` of a packed call [tokens]; `texts` and `within` are its `places`."""
    if skipped is None:
        return within
    real = (ids != skipped).long()
    before = torch.nn.functional.pad(real.cumsum(0), (1, 0))
    return (before[1:] - before[bounds[texts]]) * real + skipped
