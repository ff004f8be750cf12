"""A batch as arrays of equal shape, in host memory: texts padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.host.segments import Integers

Shape = tuple[int, int]  # rows, length


@dataclass(frozen=True, slots=True)
class Block:
    """All [rows, length]: `mask` is 1 for tokens, `kept` 1 for those that are pooled."""

    ids: Integers
    mask: Integers
    kept: Integers


def block(batch: Sequence[Integers], left_out: Integers, shape: Shape, pad_id: int) -> Block:
    """The batch as the first rows of a block of this shape, which holds it. `left_out` [texts] of each are not kept; a
    row too many is a text of one token, so that no sum is empty."""
    lengths = np.ones(shape[0], dtype=np.int64)
    lengths[: len(batch)] = [len(ids) for ids in batch]
    mask = np.arange(shape[1]) < lengths[:, None]
    ids = np.full(shape, pad_id, dtype=np.int64)
    ids[: len(batch)][mask[: len(batch)]] = np.concatenate(batch)
    numbers = mask.astype(np.int64)
    return Block(ids, numbers, _kept(numbers, left_out))


def nothing(batch: Sequence[Integers]) -> Integers:
    """Is left out of any text."""
    return np.zeros(len(batch), dtype=np.int64)


def _kept(mask: Integers, left_out: Integers) -> Integers:
    """The mask without the first `left_out` tokens of each text."""
    if not left_out.any():
        return mask
    kept = mask.copy()
    kept[: len(left_out)] *= np.arange(mask.shape[1]) >= left_out[:, None]
    return kept
