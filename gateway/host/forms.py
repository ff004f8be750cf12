"""What a GPU computes for one call: the same vectors as on a CPU, from arrays that went up together.

A form says which arrays a call needs and what to do with them there. Nothing in `vectors` may look at a number on the
device: that would wait for it, and could not be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gateway.host import blocks
from gateway.host.flash import Flash, Masked, can_flash
from gateway.host.native import Native
from gateway.host.padded import Padded
from gateway.host.planes import Shape
from gateway.host.pooling import pool
from gateway.host.segments import Integers
from gateway.model import Pooling


class Form(Protocol):
    """`flash`: calls without padding are known. For the arrays of a call see `blocks`."""

    flash: bool

    def padded(self, batch: Sequence[Integers], left_out: Integers, shape: Shape) -> Integers:
        """A call of this shape, which holds the batch."""

    def vectors(self, numbers: Tensor) -> Tensor:
        """Of a padded call: float32 [rows, dim]."""

    def tokens(self, numbers: Tensor) -> Tensor:
        """Of a padded call: token vectors, float32 [rows, length, width]."""

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        """Of a packed call whose longest text has so many tokens: float32 [texts, dim]."""


class Generic:
    """A network of transformers, which pads."""

    flash = False

    def __init__(self, network: Padded, tail: nn.Module) -> None:
        self._network = network
        self._tail = tail

    def padded(self, batch: Sequence[Integers], left_out: Integers, shape: Shape) -> Integers:
        return blocks.padded(batch, left_out, shape, self._network.pad_id)

    def vectors(self, numbers: Tensor) -> Tensor:
        ids, mask, kept = blocks.split(numbers)
        vectors: Tensor = self._tail(self._network.vectors(ids, mask, kept))
        return vectors

    def tokens(self, numbers: Tensor) -> Tensor:
        ids, mask, _ = blocks.split(numbers)
        return self._network.tokens(ids, mask).float()

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        raise NotImplementedError("transformers pads")


class Own:
    """A network that is run natively: padded for a capture, and without padding where the device has `flash`."""

    def __init__(self, network: Native, tail: nn.Module, pooling: Pooling, device: str) -> None:
        self._bert = network.bert
        self._tail = tail
        self._modes = pooling.modes
        plan = self._bert.plan
        self._skipped = plan.skipped
        self.flash = self._bert.bias is None and can_flash(self._bert.dtype, plan.width // plan.heads, device)

    def padded(self, batch: Sequence[Integers], left_out: Integers, shape: Shape) -> Integers:
        return blocks.padded(batch, left_out, shape, self._skipped or 0)

    def vectors(self, numbers: Tensor) -> Tensor:
        ids, mask, kept = blocks.split(numbers)
        return self._pooled(self._padded_tokens(ids, mask), kept)

    def tokens(self, numbers: Tensor) -> Tensor:
        ids, mask, _ = blocks.split(numbers)
        return self._padded_tokens(ids, mask)

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        ids, bounds, left_out = arrays
        texts, within = blocks.places(len(ids), bounds)
        positions = blocks.packed_positions(ids, bounds, texts, within, self._skipped)
        attend = Flash(bounds.to(torch.int32), longest, self._bert.plan.heads)
        tokens: Tensor = self._bert(ids, positions, attend).float()
        block = tokens.new_zeros(len(left_out) * longest, tokens.shape[1])
        block.index_copy_(0, texts * longest + within, tokens)
        _, kept = blocks.masks(bounds.diff(), left_out, longest)
        return self._pooled(block.view(*kept.shape, -1), kept)

    def _padded_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        bert = self._bert
        attend = Masked(mask, bert.plan.heads, bert.dtype, bert.relative_bias())
        tokens: Tensor = bert(ids.flatten(), blocks.positions(ids, self._skipped).flatten(), attend)
        return tokens.float().view(*ids.shape, -1)

    def _pooled(self, tokens: Tensor, kept: Tensor) -> Tensor:
        vectors: Tensor = self._tail(pool(tokens, kept, self._modes))
        return vectors


def of(network: Native | Padded, tail: nn.Module, pooling: Pooling, device: str) -> Form:
    """The form of a network that lies on `device`."""
    if isinstance(network, Native):
        return Own(network, tail, pooling, device)
    return Generic(network, tail)
