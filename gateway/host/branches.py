"""What adapters add to the layers of a language model that transformers runs: of each row what its own adapter adds.

The base's products are computed for all rows at once, and an adapter's small ones for its own rows. Layers are told
apart by their names; one that no adapter has changed so far costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gateway.host.lora import Change, moved


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


class Rowwise:
    """The network's layers, as far as adapters change them. One call at a time."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = dict(network.named_modules())
        self._hooked: set[str] = set()
        self._owned: list[tuple[Branches, slice | Tensor]] = []

    @contextmanager
    def rows(self, owners: Sequence[Branches | None]) -> Iterator[None]:
        """Within it the rows of a call are changed by these, None being the base itself."""
        self._owned = [(owner, _place(owners, owner)) for owner in dict.fromkeys(owners) if owner is not None]
        for owner, _ in self._owned:
            self._hook(owner)
        try:
            yield
        finally:
            self._owned = []

    def _hook(self, owner: Branches) -> None:
        for name in owner.layers.keys() - self._hooked:
            self._layers[name].register_forward_hook(self._changing(name))
            self._hooked.add(name)

    def _changing(self, name: str) -> Any:
        def change(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            for owner, rows in self._owned:
                if found := owner.layers.get(name):
                    _apply(found, given[0], made, rows)

        return change


def _apply(change: Change, x: Tensor, y: Tensor, rows: slice | Tensor) -> None:
    """`x` [rows, tokens, in] and `y` [rows, tokens, out]; in place."""
    part = y[rows]
    flat = part.reshape(-1, y.shape[-1])
    change.apply(x[rows].reshape(-1, x.shape[-1]), flat)
    if isinstance(rows, Tensor) or flat.data_ptr() != part.data_ptr():
        y[rows] = flat.view(part.shape)


def _place(owners: Sequence[Branches | None], owner: Branches) -> slice | Tensor:
    """Where its rows are: one piece, if they lie together."""
    found = [row for row, each in enumerate(owners) if each is owner]
    if found[-1] - found[0] + 1 == len(found):
        return slice(found[0], found[-1] + 1)
    return torch.tensor(found)
