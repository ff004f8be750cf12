"""Whose rows are whose in a device call that texts of several adapters share.

The base's products are computed for all rows at once; each adapter's small ones for its own rows, which lie together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gateway.host.lora import Change, Lora, Piece, Place
from gateway.host.segments import Integers, Segments


class Run(NamedTuple):
    """Rows `begin` to `end` are of texts of one adapter."""

    lora: Lora
    begin: int
    end: int


class Changed(Protocol):
    """What a call adds to the products of one block."""

    def touches(self, place: Place) -> bool:
        """Whether any row's product is changed there."""

    def additive(self, place: Place) -> bool:
        """Whether what is changed there is only added to: then something else may have been added before."""

    def apply(self, place: Place, x: Tensor, y: Tensor) -> None:
        """To the base's output `y` of `x`, in place."""


class ByRuns:
    """One block, for rows that lie in runs: each run's products by themselves."""

    def __init__(self, block: int, runs: Sequence[Run]) -> None:
        self._found: dict[Place, list[tuple[Change, int, int]]] = {}
        for lora, begin, end in runs:
            for place, change in lora.blocks[block].items():
                self._found.setdefault(place, []).append((change, begin, end))

    def touches(self, place: Place) -> bool:
        return place in self._found

    def additive(self, place: Place) -> bool:
        return all(change.additive for change, _, _ in self._found[place])

    def apply(self, place: Place, x: Tensor, y: Tensor) -> None:
        for change, begin, end in self._found.get(place, ()):
            change.apply(x[begin:end], y[begin:end])


class Copies:
    """Numbers on a device, each list of them brought there once: blocks of a network have the same ones."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made: dict[tuple[int, ...], Tensor] = {}

    def of(self, numbers: Sequence[int]) -> Tensor:
        key = tuple(numbers)
        if key not in self._made:
            self._made[key] = torch.tensor(key, device=self._device)
        return self._made[key]


class ByOwner:
    """One block, for rows that lie anyhow on a device where each product costs a launch: the products of all adapters
    at once, and of each row those of others taken out. `owners` [rows] are places in `loras`."""

    def __init__(self, block: int, owners: Tensor, loras: Sequence[Lora | None], copies: Copies) -> None:
        self._owners = owners
        self._copies = copies
        self._found: dict[Place, list[tuple[int, Change]]] = {}
        for number, lora in enumerate(loras):
            for place, change in (lora.blocks[block] if lora else {}).items():
                self._found.setdefault(place, []).append((number, change))
        self._count = len(loras)

    def touches(self, place: Place) -> bool:
        return place in self._found

    def additive(self, place: Place) -> bool:
        return all(change.additive for _, change in self._found[place])

    def apply(self, place: Place, x: Tensor, y: Tensor) -> None:
        if not (found := self._found.get(place)):
            return
        low = x @ torch.cat([change.first for _, change in found]).t()
        owning = [number for number, change in found for _ in range(len(change.first))]
        low.mul_(self._owners[:, None] == self._copies.of(owning))
        begins = [0, *accumulate(len(change.first) for _, change in found)]
        pieces: dict[tuple[int, int], list[tuple[int, int, Piece]]] = {}
        for (number, change), begin in zip(found, begins, strict=False):
            for piece in change.pieces:
                pieces.setdefault((piece.columns.start, piece.columns.stop), []).append((number, begin, piece))
        for (first, last), parts in pieces.items():
            self._piece(low, y[:, first:last], parts)

    def _piece(self, low: Tensor, y: Tensor, parts: Sequence[tuple[int, int, Piece]]) -> None:
        """Of one layer."""
        gained = [(number, piece) for number, _, piece in parts if piece.gain is not None]
        if gained:
            gains, shifts = y.new_ones(self._count, y.shape[1]), y.new_zeros(self._count, y.shape[1])
            for number, piece in gained:
                assert piece.gain is not None, "only such pieces were taken"
                assert piece.shift is not None, "a gain comes with it"
                gains[number], shifts[number] = piece.gain, piece.shift
            y.mul_(gains[self._owners]).add_(shifts[self._owners])
        ranks = [rank for _, begin, each in parts for rank in range(begin + each.ranks.start, begin + each.ranks.stop)]
        chosen = low if len(ranks) == low.shape[1] else low[:, self._copies.of(ranks)]
        y.addmm_(chosen, torch.cat([piece.second for _, _, piece in parts], dim=1).t())


class Changes:
    """Whose each text of a call is: `numbers` [texts] are places in `loras`, and None there is the base itself. All are
    pooled by the same `modes`."""

    def __init__(self, numbers: Integers, loras: Sequence[Lora | None], modes: Sequence[str]) -> None:
        self.numbers = numbers
        self.loras = loras
        self.modes = modes

    @classmethod
    def by(cls, owners: Sequence[Lora | None], modes: Sequence[str]) -> Changes:
        """Of texts of these."""
        places: dict[Lora | None, int] = {}
        numbers = [places.setdefault(lora, len(places)) for lora in owners]
        return cls(np.array(numbers, dtype=np.int64), list(places), modes)

    def of(self, texts: list[int]) -> Changes:
        """Of some of the texts."""
        return Changes(self.numbers[texts], self.loras, self.modes)

    def blocks(self, laid: Segments, count: int) -> list[Changed]:
        """For each block of the network, of the texts as they lie."""
        lengths = [group.length for group in laid.groups for _ in range(group.count)]
        found = _runs(lengths, self.numbers[laid.order].tolist(), self.loras)
        return [ByRuns(block, found) for block in range(count)]

    def by_owner(self, texts: Tensor, count: int) -> list[Changed]:
        """For each block of the network, of rows that are of these `texts`."""
        owners = torch.from_numpy(self.numbers).to(texts.device)[texts]
        copies = Copies(texts.device)
        return [ByOwner(block, owners, self.loras, copies) for block in range(count)]


def _runs(lengths: Sequence[int], numbers: Sequence[int], loras: Sequence[Lora | None]) -> list[Run]:
    """Of texts that lie end to end, with so many rows each."""
    found: list[Run] = []
    begin = 0
    for length, number in zip(lengths, numbers, strict=True):
        lora, end = loras[number], begin + length
        if lora is not None:
            if found and found[-1].lora is lora and found[-1].end == begin:
                found[-1] = found[-1]._replace(end=end)
            else:
                found.append(Run(lora, begin, end))
        begin = end
    return found
