"""The factors of an adapter, as the network that it changes wants them: by block and by place in it.

A place is one matrix product of a block. Queries, keys and values are one, and their first factors lie in one piece:
three layers that were changed cost one product more, and not three. The scale is in the second factor.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Place = Literal["qkv", "out", "inner", "outer"]


class Piece(NamedTuple):
    """One layer of a place: its columns of the place's output, its rows of the first factor, and the second one
    [out, rank], scaled. With a `gain` [out], of DoRA, the base's output is `gain * y + shift` before that is added."""

    columns: slice
    ranks: slice
    second: Tensor
    gain: Tensor | None
    shift: Tensor | None


class Change(NamedTuple):
    """Of one place. `first` [rank of all pieces, in]."""

    first: Tensor
    pieces: tuple[Piece, ...]

    @property
    def additive(self) -> bool:
        """Whether it only adds to the base's output."""
        return all(piece.gain is None for piece in self.pieces)

    def tensors(self) -> list[Tensor]:
        pieces = [tensor for piece in self.pieces for tensor in piece[2:] if tensor is not None]
        return [self.first, *pieces]

    def apply(self, x: Tensor, y: Tensor) -> None:
        """To the base's output `y` [rows, out] of `x` [rows, in], in place."""
        low = x @ self.first.t()
        for columns, ranks, second, gain, shift in self.pieces:
            part = y[:, columns]
            if gain is not None and shift is not None:
                part.mul_(gain).add_(shift)
            part.addmm_(low[:, ranks], second.t())


Blocks = list[dict[Place, Change]]


class Lora:
    """All changes of one adapter: for each block of the network those of its places."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    @property
    def dtype(self) -> torch.dtype:
        return next(tensor.dtype for tensor in self._tensors())

    def to(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Moves or converts all of it. A call that has begun has the tensors that it began with."""
        self.blocks = [
            {place: moved(change, device, dtype or self.dtype) for place, change in block.items()}
            for block in self.blocks
        ]

    def empty(self) -> None:
        self.blocks = [{} for _ in self.blocks]

    def _tensors(self) -> list[Tensor]:
        return [tensor for block in self.blocks for change in block.values() for tensor in change.tensors()]


def moved(change: Change, device: str, dtype: torch.dtype) -> Change:
    """The same there, in that type."""

    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, dtype)

    pieces = tuple(
        Piece(columns, ranks, second.to(device, dtype), move(gain), move(shift))
        for columns, ranks, second, gain, shift in change.pieces
    )
    return Change(change.first.to(device, dtype), pieces)
