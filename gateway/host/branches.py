"""What adapters add to the layers of a language model that transformers runs: of each row what its own adapter adds.

The base's products are computed for all rows at once, and an adapter's small ones for its own rows. Layers are told
apart by their names; one that no adapter has changed so far costs nothing. Where many adapters speak at once, a token
each, their products are batched (see `stacks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gateway.host.lora import Change
from gateway.host.stacks import FEW, Branches, Stacks


class Rowwise:
    """The network's layers, as far as adapters change them. One call at a time. `room` in bytes, for copies of the
    factors of those that speak at once."""

    def __init__(self, network: nn.Module, room: int) -> None:
        self._layers = dict(network.named_modules())
        self._room = room
        self._hooked: set[str] = set()
        self._owned: list[tuple[Branches, slice | Tensor]] = []
        self._stacks: Stacks | None = None
        self._stacked = False  # in this call

    @contextmanager
    def rows(self, owners: Sequence[Branches | None], device: torch.device, *, single: bool = False) -> Iterator[None]:
        """Within it the rows of a call are changed by these, None being the base itself. `single`: each row is one
        token."""
        found: dict[Branches, list[int]] = {}
        for row, owner in enumerate(owners):
            if owner is not None:
                found.setdefault(owner, []).append(row)
        self._owned = [(owner, _piece(rows)) for owner, rows in found.items()]
        for owner in found:
            self._hook(owner)
        self._stacked = single and self._stack(found, device)
        try:
            yield
        finally:
            self._owned, self._stacked = [], False

    def forget(self) -> None:
        """Copies of factors."""
        self._stacks = None

    @property
    def copied(self) -> int:
        """Bytes of them."""
        return self._stacks.bytes if self._stacks else 0

    def _stack(self, found: Mapping[Branches, list[int]], device: torch.device) -> bool:
        """Whether there is room for it. Who stops speaking leaves a gap, until somebody comes or half of it is gaps."""
        stacks = self._stacks
        if len(found) < FEW:
            self._stacks = None
            return False
        if stacks is None or not found.keys() <= stacks.owners or 2 * len(found) < len(stacks.owners):
            self._stacks = None  # first, so that there are never two
            if sum(owner.bytes for owner in found) > self._room:
                return False
            stacks = self._stacks = Stacks(list(found))
        stacks.lay(found, device)
        return True

    def _hook(self, owner: Branches) -> None:
        for name in owner.layers.keys() - self._hooked:
            self._layers[name].register_forward_hook(self._changing(name))
            self._hooked.add(name)

    def _changing(self, name: str) -> Any:
        def change(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            if self._stacked and self._stacks is not None:
                self._stacks.apply(name, given[0][:, 0], made[:, 0])
                return
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


def _piece(rows: list[int]) -> slice | Tensor:
    """One piece, if they lie together."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows)
