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
from gateway.host.mixed import Changes
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

    def tokens(self, numbers: Tensor, changes: Changes | None = None) -> Tensor:
        """Of a padded call: token vectors, float32 [rows, length, width]."""

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        """Of a packed call whose longest text has so many tokens: float32 [texts, dim]."""

    def pooled(self, numbers: Tensor, changes: Changes) -> Tensor:
        """Of a padded call that adapters change: float32 [rows, width * modes]. Never captured."""

    def packed_pooled(self, arrays: Sequence[Tensor], longest: int, changes: Changes) -> Tensor:
        """Of a packed call that adapters change."""


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

    def tokens(self, numbers: Tensor, changes: Changes | None = None) -> Tensor:
        ids, mask, _ = blocks.split(numbers)
        return self._network.tokens(ids, mask).float()

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        raise NotImplementedError("transformers pads")

    def pooled(self, numbers: Tensor, changes: Changes) -> Tensor:
        raise NotImplementedError("transformers takes no adapters here")

    def packed_pooled(self, arrays: Sequence[Tensor], longest: int, changes: Changes) -> Tensor:
        raise NotImplementedError("transformers takes no adapters here")


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
        return self._behind(pool(self._padded_tokens(ids, mask), kept, self._modes))

    def tokens(self, numbers: Tensor, changes: Changes | None = None) -> Tensor:
        ids, mask, _ = blocks.split(numbers)
        return self._padded_tokens(ids, mask, changes)

    def pooled(self, numbers: Tensor, changes: Changes) -> Tensor:
        ids, mask, kept = blocks.split(numbers)
        return pool(self._padded_tokens(ids, mask, changes), kept, changes.modes)

    def packed_vectors(self, arrays: Sequence[Tensor], longest: int) -> Tensor:
        return self._behind(pool(*self._packed_tokens(arrays, longest), self._modes))

    def packed_pooled(self, arrays: Sequence[Tensor], longest: int, changes: Changes) -> Tensor:
        return pool(*self._packed_tokens(arrays, longest, changes), changes.modes)

    def _packed_tokens(
        self, arrays: Sequence[Tensor], longest: int, changes: Changes | None = None
    ) -> tuple[Tensor, Tensor]:
        """[texts, longest, width], and which of them are pooled."""
        ids, bounds, left_out = arrays
        texts, within = blocks.places(len(ids), bounds)
        positions = blocks.packed_positions(ids, bounds, texts, within, self._skipped)
        attend = Flash(bounds.to(torch.int32), longest, self._bert.plan.heads)
        changed = changes.by_owner(texts, self._bert.plan.layers) if changes else None
        tokens: Tensor = self._bert(ids, positions, attend, changed).float()
        block = tokens.new_zeros(len(left_out) * longest, tokens.shape[1])
        block.index_copy_(0, texts * longest + within, tokens)
        _, kept = blocks.masks(bounds.diff(), left_out, longest)
        return block.view(*kept.shape, -1), kept

    def _padded_tokens(self, ids: Tensor, mask: Tensor, changes: Changes | None = None) -> Tensor:
        bert = self._bert
        attend = Masked(mask, bert.plan.heads, bert.dtype, bert.relative_bias())
        changed = None
        if changes:
            texts = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
            changed = changes.by_owner(texts, bert.plan.layers)
        tokens: Tensor = bert(ids.flatten(), blocks.positions(ids, self._skipped).flatten(), attend, changed)
        return tokens.float().view(*ids.shape, -1)

    def _behind(self, pooled: Tensor) -> Tensor:
        vectors: Tensor = self._tail(pooled)
        return vectors


def of(network: Native | Padded, tail: nn.Module, pooling: Pooling, device: str) -> Form:
    """The form of a network that lies on `device`."""
    if isinstance(network, Native):
        return Own(network, tail, pooling, device)
    return Generic(network, tail)
