"""The factors of an adapter of a language model by the names of its layers, and those of many stacked for one product.

When rows of many adapters go on by a token each, every adapter's products are too small to be worth their start: so the
factors of like rank are copied into one block, once for as long as the same adapters speak, and all rows are done by
two batched products (as in Punica: Chen et al. 2023, and S-LoRA: Sheng et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gateway.host.lora import Change, moved

FEW: Final = 3  # adapters; fewer are as fast by themselves


class Branches:
    """All changes of one adapter, by the names of the layers."""

    def __init__(self, layers: Mapping[str, Change]) -> None:
        self.layers = dict(layers)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for change in self.layers.values() for tensor in change.tensors())

    def to(self, device: str) -> None:
        """A call that has begun has the tensors that it began with."""
        self.layers = {name: moved(change, device, change.first.dtype) for name, change in self.layers.items()}

    def empty(self) -> None:
        self.layers = {}


class Stack(NamedTuple):
    """Of one layer and one rank: `first` [adapters, in, rank] and `second` [adapters, rank, out]."""

    numbers: tuple[int, ...]  # of the adapters, in their order
    first: Tensor
    second: Tensor

    @property
    def bytes(self) -> int:
        return self.first.nbytes + self.second.nbytes


class Layer(NamedTuple):
    """`others` of the adapters do more than add: DoRA."""

    stacks: list[Stack]
    others: list[tuple[int, Change]]


class Places(NamedTuple):
    """Where the rows of some adapters go: `rows` [adapters * most] fills the block, with a row of anybody where an
    adapter has fewer, and `valid` has what of it counts; None: all."""

    rows: Tensor
    most: int
    valid: Tensor | None


class Stacks:
    """Of these adapters. Made layer by layer, as the layers are met."""

    def __init__(self, owners: Sequence[Branches]) -> None:
        self._list = list(owners)
        self.owners = frozenset(owners)
        self._layers: dict[str, Layer] = {}
        self._rows: list[list[int]] = []
        self._device = torch.device("cpu")
        self._places: dict[tuple[int, ...], Places | None] = {}

    @property
    def bytes(self) -> int:
        return sum(stack.bytes for layer in self._layers.values() for stack in layer.stacks)

    def lay(self, rows: Mapping[Branches, list[int]], device: torch.device) -> None:
        """Whose the rows of the next calls are."""
        found = [rows.get(owner, []) for owner in self._list]
        if found != self._rows:
            self._rows, self._device, self._places = found, device, {}

    def apply(self, name: str, x: Tensor, y: Tensor) -> None:
        """To the base's output `y` [rows, out] of `x` [rows, in], in place."""
        layer = self._layers.get(name)
        if layer is None:
            layer = self._layers[name] = self._made(name)
        for stack in layer.stacks:
            if places := self._placed(stack.numbers):
                _add(stack, places, x, y)
        for number, change in layer.others:
            if rows := self._rows[number]:
                part = y[rows]
                change.apply(x[rows], part)
                y[rows] = part

    def _made(self, name: str) -> Layer:
        alike: dict[int, list[tuple[int, Change]]] = {}
        others = []
        for number, owner in enumerate(self._list):
            change = owner.layers.get(name)
            if change is None:
                continue
            if change.additive and len(change.pieces) == 1:
                alike.setdefault(len(change.first), []).append((number, change))
            else:
                others.append((number, change))
        return Layer([_stack(found) for found in alike.values()], others)

    def _placed(self, numbers: tuple[int, ...]) -> Places | None:
        """None where none of them has a row."""
        if numbers not in self._places:
            self._places[numbers] = _places([self._rows[number] for number in numbers], self._device)
        return self._places[numbers]


def _stack(found: Sequence[tuple[int, Change]]) -> Stack:
    first = torch.stack([change.first.t() for _, change in found])
    second = torch.stack([change.pieces[0].second.t() for _, change in found])
    return Stack(tuple(number for number, _ in found), first, second)


def _places(rows: Sequence[list[int]], device: torch.device) -> Places | None:
    most = max(map(len, rows))
    if not most:
        return None
    filled = [row for each in rows for row in each + [0] * (most - len(each))]
    valid = [at * most + nth for at, each in enumerate(rows) for nth in range(len(each))]
    whole = len(valid) == len(filled)
    return Places(torch.tensor(filled, device=device), most, None if whole else torch.tensor(valid, device=device))


def _add(stack: Stack, places: Places, x: Tensor, y: Tensor) -> None:
    block = x[places.rows].view(len(stack.numbers), places.most, -1)
    added = torch.bmm(torch.bmm(block, stack.first), stack.second).flatten(0, 1)
    if places.valid is None:
        y.index_add_(0, places.rows, added)
    else:
        y.index_add_(0, places.rows[places.valid], added[places.valid])
